//! A running QEMU, over QMP.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use serde_json::{Value, json};
use weft_types::Reason;
use weft_unit::{Error, Step};

use crate::fail;
use crate::machine::{Control, Door, State, Vitals};
use crate::qmp::{Client, Failure};

use super::args::CONSOLE_BYTES;
use super::{CALLS_SOCKET, PATIENCE, WATCH_SOCKET};

/// A connection to one of the monitors.
#[derive(Debug)]
pub(super) struct QemuControl {
    client: Client,
}

impl QemuControl {
    pub(super) async fn connect(dir: &Path, door: Door) -> Result<Self, Error> {
        let socket = match door {
            Door::Watch => WATCH_SOCKET,
            Door::Calls => CALLS_SOCKET,
        };
        let client = Client::connect(&dir.join(socket), PATIENCE).await;
        let client = client.map_err(|failure| fail::engine(Step::Run, &failure))?;
        Ok(Self { client })
    }

    async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let answer = self.client.call(command, arguments).await;
        answer.map_err(|failure| fail::engine(Step::Run, &failure))
    }
}

fn garbled(command: &str) -> Error {
    let detail = format!("QEMU's answer to `{command}` is not as documented");
    Error::new(Step::Run, Reason::RuntimeError, detail)
}

/// QEMU's `RunState`.
fn state(status: &str) -> State {
    match status {
        "paused" | "io-error" => State::Paused,
        "shutdown" => State::Off,
        "guest-panicked" => State::Panicked,
        "internal-error" | "watchdog" => State::Broken(format!("QEMU stands at `{status}`")),
        _ => State::Running,
    }
}

fn has_agent(chardevs: &Value) -> bool {
    let all = chardevs.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .any(|device| device["label"] == "agent" && device["frontend-open"] == true)
}

/// Reads `info usernet`: a line each of `TCP[HOST_FORWARD] FD HOST PORT GUEST PORT …`.
fn forwards(text: &str) -> BTreeMap<u16, SocketAddr> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        if fields.next() != Some("TCP[HOST_FORWARD]") {
            continue;
        }
        let rest: Vec<_> = fields.collect();
        if let [_, host, port, _, target, ..] = rest[..]
            && let (Ok(host), Ok(port)) = (host.parse::<IpAddr>(), port.parse())
            && let Ok(target) = target.parse()
        {
            all.entry(target).or_insert(SocketAddr::new(host, port));
        }
    }
    all
}

fn written(stats: &Value) -> u64 {
    let all = stats.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .filter_map(|device| device["stats"]["wr_bytes"].as_u64())
        .fold(0, u64::saturating_add)
}

#[async_trait]
impl Control for QemuControl {
    async fn vitals(&mut self) -> Result<Vitals, Error> {
        let answer = self.call("query-status", json!({})).await?;
        let status = answer["status"].as_str();
        let status = status.ok_or_else(|| garbled("query-status"))?.to_owned();
        let chardevs = self.call("query-chardev", json!({})).await?;
        Ok(Vitals {
            state: state(&status),
            has_agent: has_agent(&chardevs),
        })
    }

    async fn console(&mut self) -> Result<Vec<u8>, Error> {
        let arguments = json!({"device": "console", "size": CONSOLE_BYTES, "format": "base64"});
        let answer = self.call("ringbuf-read", arguments).await?;
        let text = answer.as_str().ok_or_else(|| garbled("ringbuf-read"))?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        bytes.map_err(|_| garbled("ringbuf-read"))
    }

    async fn happened(&mut self, at_most: Duration) -> Result<(), Error> {
        let events = self.client.events(at_most).await;
        events
            .map(drop)
            .map_err(|failure| fail::engine(Step::Run, &failure))
    }

    async fn power_button(&mut self) -> Result<(), Error> {
        self.call("system_powerdown", json!({})).await.map(drop)
    }

    async fn pause(&mut self) -> Result<(), Error> {
        self.call("stop", json!({})).await.map(drop)
    }

    async fn resume(&mut self) -> Result<(), Error> {
        self.call("cont", json!({})).await.map(drop)
    }

    async fn quit(&mut self) -> Result<(), Error> {
        match self.client.call("quit", json!({})).await {
            // It may be gone before it has answered.
            Ok(_) | Err(Failure::Gone(_)) => Ok(()),
            Err(failure) => Err(fail::engine(Step::Stop, &failure)),
        }
    }

    async fn published(&mut self) -> Result<BTreeMap<u16, SocketAddr>, Error> {
        // The monitor for people is the only one that tells which ports were chosen.
        let arguments = json!({"command-line": "info usernet"});
        let answer = self.call("human-monitor-command", arguments).await?;
        Ok(forwards(answer.as_str().unwrap_or_default()))
    }

    async fn written_bytes(&mut self) -> Result<u64, Error> {
        Ok(written(&self.call("query-blockstats", json!({})).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_ports_are_read_from_the_monitor_for_people() {
        let text = "Hub -1 (n0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
             TCP[HOST_FORWARD]  11       127.0.0.1 46263       10.0.2.15    22     0     0\r\n  \
             TCP[ESTABLISHED]   12       127.0.0.1 46263       10.0.2.15    22     0     0\r\n";
        let expected = [(22, "127.0.0.1:46263".parse().unwrap())];
        assert_eq!(forwards(text), BTreeMap::from(expected));
    }

    proptest! {
        #[test]
        fn any_text_of_the_monitor_is_read(text: String, forward in "( *TCP\\[HOST_FORWARD\\]|[0-9. a-z-]){0,60}") {
            forwards(&text);
            forwards(&forward);
        }
    }
}
