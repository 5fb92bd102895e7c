//! What is asked of a fleet again and again by tests of services.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Done, Fleet, PATIENCE};

/// How often is looked at what is to stay as it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A service of an image that is ready when it runs; `more` are further lines of its file.
pub fn service_file(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: weft/v1\nname: {name}\nrun: service\nruntime: container\ncontainer:\n  \
         image: {image}\nupdate: {{deadline: 2m}}\n{more}"
    )
}

/// The same, with port 80 published at 8080.
pub fn published(file: &str) -> String {
    file.replacen("update:", "  ports: ['8080:80/http']\nupdate:", 1)
}

/// What a replica reserves: this much of a CPU, and 64 MiB.
pub fn resources(cpu: &str) -> String {
    format!("resources: {{cpu: {cpu}, memory: 64Mi, disk: 0}}\n")
}

/// A number of replicas: `wanted`, `existing`, `running`, `ready`, `updated`.
pub fn replicas(service: &Value, which: &str) -> u64 {
    service["replicas"][which].as_u64().unwrap_or(0)
}

/// The node of each unit that is to stay, sorted.
pub fn nodes_of(service: &Value) -> Vec<String> {
    let units = service["units"].as_array().into_iter().flatten();
    let mut nodes: Vec<String> = units
        .filter(|unit| unit["stopping"].is_null())
        .filter_map(|unit| unit["node"].as_str().map(str::to_owned))
        .collect();
    nodes.sort();
    nodes
}

impl Fleet {
    /// Agents of one core each, those of `n1` and `n2` in zone `a`, that of `n3` in zone `b`; the
    /// first has the label `ssd=true`.
    pub fn zoned() -> Option<Self> {
        Self::with(|number| {
            let zone = if number == 3 { "zone=b" } else { "zone=a" };
            let mut args = vec!["--cpu", "1", "--memory", "1Gi", "--label", zone];
            if number == 1 {
                args.extend(["--label", "ssd=true"]);
            }
            args.into_iter().map(str::to_owned).collect()
        })
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Done {
        self.cluster.weft(args).timeout(PATIENCE).run()
    }

    /// What happened of a type (`service.scaled`), in order.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let told = self.run(&["events", "-o", "json"]).expect_code(0);
        let kind = format!("weft.{kind}");
        let told = told.ndjson().into_iter();
        told.filter(|event| event["type"] == kind).collect()
    }

    /// Checks that something holds of a service at every look for as long as this.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn stays(&self, name: &str, span: Duration, holds: impl Fn(&Value) -> bool) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let service = self.service(name);
            assert!(holds(&service), "{service}");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}
