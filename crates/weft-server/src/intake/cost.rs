//! What a task has cost.

use prost::Message;
use weft_api::ResultView;
use weft_placement::share_of_price;
use weft_proto::v1::JobSpec;
use weft_types::{Bytes, GpuRequest, JobId, Millicores, Money, NodeCapacity, NodeId, Resources};

use crate::state::Server;

const US_PER_HOUR: f64 = 3.6e9;
const MICROS_PER_DOLLAR: f64 = 1e6;

/// US dollars for the attempt that gave a task its result: what it reserved of its node, for as
/// long as it ran, at the node's price of now. Nothing where the node or the job is not known any
/// more.
pub(super) async fn of(server: &Server, job: JobId, view: &ResultView) -> f64 {
    let Some(capacity) = view.node.as_deref().and_then(|node| offer(server, node)) else {
        return 0.0;
    };
    if capacity.price_per_hour.is_zero() {
        return 0.0;
    }
    let spec = server.dispatcher.ask(move |shell| shell.spec(job));
    let Ok(Some(spec)) = spec.await.map(|spec| JobSpec::decode(spec?).ok()) else {
        return 0.0;
    };
    dollars(share_of_price(&capacity, &reserved(&spec)), view.run_us)
}

fn offer(server: &Server, node: &str) -> Option<NodeCapacity> {
    let node: NodeId = node.parse().ok()?;
    server.nodes.capacity(&node)
}

fn reserved(spec: &JobSpec) -> Resources {
    Resources {
        cpu: Millicores(spec.cpu_millicores),
        memory: Bytes(spec.memory_bytes),
        disk: Bytes(spec.disk_bytes),
        gpu: (spec.gpus > 0).then_some(GpuRequest {
            count: spec.gpus,
            model: None,
        }),
    }
}

fn dollars(per_hour: Money, run_us: u64) -> f64 {
    per_hour.0 as f64 / MICROS_PER_DOLLAR * (run_us as f64 / US_PER_HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_costs_its_share_of_its_node_for_as_long_as_it_ran() {
        let capacity = NodeCapacity {
            cpu: Millicores(4_000),
            memory: Bytes(8 << 30),
            price_per_hour: Money(400_000),
            ..NodeCapacity::default()
        };
        let spec = JobSpec {
            cpu_millicores: 1_000,
            memory_bytes: 1 << 30,
            ..JobSpec::default()
        };
        let each = share_of_price(&capacity, &reserved(&spec));
        assert_eq!(each, Money(100_000), "a quarter of the cores");
        assert!((dollars(each, 1_800_000_000) - 0.05).abs() < 1e-12);
    }
}
