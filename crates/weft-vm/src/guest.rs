//! The agent inside a guest (`qemu-guest-agent`), over a virtio serial port.
//! <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::socket;

/// The largest answer that is read, in bytes: output of a command in base 64, twice.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A guest's agent. Each call is a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
}

/// A card, as the guest sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Interface {
    pub(crate) mac: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// How a command in the guest is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct CommandStatus {
    pub(crate) has_ended: bool,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Agent {
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Calls a command; what hinders it is a sentence for people.
    pub(crate) async fn call(
        &self,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, String> {
        let exchange = self.exchange(command, arguments, true);
        let late = |_| format!("the guest agent does not answer `{command}` within {patience:?}");
        tokio::time::timeout(patience, exchange)
            .await
            .map_err(late)?
    }

    async fn exchange(
        &self,
        command: &str,
        arguments: Value,
        answers: bool,
    ) -> Result<Value, String> {
        let said = |e: std::io::Error| format!("the guest agent's socket: {e}");
        let mut stream = socket::connect(&self.socket).await.map_err(said)?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        let id = u32::from_le_bytes(random);
        // The byte 0xff makes the agent forget what an earlier caller left half said, and comes
        // back before the answer that is ours.
        let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
        let mut request = vec![0xff];
        request.extend_from_slice(format!("{sync}\n").as_bytes());
        stream.write_all(&request).await.map_err(said)?;
        let mut buffered = Vec::new();
        while line(&mut stream, &mut buffered).await.map_err(said)?["return"] != id {}
        let request = json!({"execute": command, "arguments": arguments});
        let request = format!("{request}\n");
        stream.write_all(request.as_bytes()).await.map_err(said)?;
        if !answers {
            return Ok(Value::Null);
        }
        let mut answer = line(&mut stream, &mut buffered).await.map_err(said)?;
        if let Some(error) = answer.get("error") {
            let reason = error["desc"].as_str().unwrap_or("no reason");
            return Err(format!("the guest agent refuses `{command}`: {reason}"));
        }
        Ok(answer["return"].take())
    }

    /// The guest's cards.
    pub(crate) async fn interfaces(&self, patience: Duration) -> Result<Vec<Interface>, String> {
        let answer = self
            .call("guest-network-get-interfaces", json!({}), patience)
            .await?;
        let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(all.iter().map(interface).collect())
    }

    /// Asks the guest to power off. It answers only when it cannot.
    pub(crate) async fn power_off(&self, patience: Duration) -> Result<(), String> {
        let arguments = json!({"mode": "powerdown"});
        let exchange = self.exchange("guest-shutdown", arguments, false);
        let late = |_| "the guest agent does not answer".to_owned();
        tokio::time::timeout(patience, exchange)
            .await
            .map_err(late)?
            .map(drop)
    }

    /// Starts a command and tells its number.
    pub(crate) async fn start(
        &self,
        command: &[String],
        input: &[u8],
        patience: Duration,
    ) -> Result<i64, String> {
        let (program, arguments) = command.split_first().ok_or("no command was given")?;
        let mut wanted = json!({"path": program, "arg": arguments, "capture-output": true});
        // Without input the command would have that of the agent, which never ends.
        wanted["input-data"] = STANDARD.encode(input).into();
        let answer = self.call("guest-exec", wanted, patience).await?;
        answer["pid"]
            .as_i64()
            .ok_or_else(|| "the guest agent told no process number".to_owned())
    }

    /// How a started command is; its output is there once it has ended.
    pub(crate) async fn status(
        &self,
        pid: i64,
        patience: Duration,
    ) -> Result<CommandStatus, String> {
        let arguments = json!({"pid": pid});
        let answer = self.call("guest-exec-status", arguments, patience).await?;
        let number = |key: &str| answer[key].as_i64().and_then(|n| i32::try_from(n).ok());
        let bytes = |key: &str| {
            let text = answer[key].as_str().unwrap_or_default();
            STANDARD.decode(text).unwrap_or_default()
        };
        Ok(CommandStatus {
            has_ended: answer["exited"] == true,
            code: number("exitcode"),
            signal: number("signal"),
            stdout: bytes("out-data"),
            stderr: bytes("err-data"),
        })
    }
}

/// The next line that is JSON. Bytes up to 0xff are of an earlier answer.
async fn line(stream: &mut UnixStream, buffered: &mut Vec<u8>) -> std::io::Result<Value> {
    loop {
        if let Some(end) = buffered.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffered.drain(..=end).collect();
            let begin = line.iter().rposition(|&byte| byte == 0xff);
            let line = &line[begin.map_or(0, |at| at + 1)..];
            if let Ok(value) = serde_json::from_slice(line) {
                return Ok(value);
            }
            continue;
        }
        if buffered.len() > MAX_ANSWER_BYTES {
            return Err(std::io::Error::other("an answer without end"));
        }
        if stream.read_buf(buffered).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn interface(value: &Value) -> Interface {
    let addresses = value["ip-addresses"].as_array();
    let addresses = addresses.map(Vec::as_slice).unwrap_or_default();
    let parsed = addresses
        .iter()
        .filter_map(|address| address["ip-address"].as_str()?.parse().ok());
    let counter = |key: &str| value["statistics"][key].as_u64().unwrap_or(0);
    Interface {
        mac: value["hardware-address"]
            .as_str()
            .unwrap_or_default()
            .to_ascii_lowercase(),
        addresses: parsed.collect(),
        rx_bytes: counter("rx-bytes"),
        tx_bytes: counter("tx-bytes"),
    }
}

/// The address of the first of our cards that has one: not loopback, not link-local, version 4
/// before version 6.
pub(crate) fn address_of(interfaces: &[Interface], macs: &[&str]) -> Option<IpAddr> {
    let is_usable = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    macs.iter().find_map(|mac| {
        let card = interfaces.iter().find(|card| card.mac == *mac)?;
        let mut usable: Vec<_> = card.addresses.iter().filter(is_usable).collect();
        usable.sort_by_key(|address| address.is_ipv6());
        usable.first().map(|address| **address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_address_is_that_of_our_first_card() {
        let card = |mac: &str, addresses: &[&str]| {
            let addresses: Vec<_> = addresses
                .iter()
                .map(|a| json!({"ip-address": a, "prefix": 24}))
                .collect();
            interface(&json!({"hardware-address": mac, "ip-addresses": addresses}))
        };
        let guest = [
            card("00:00:00:00:00:00", &["127.0.0.1"]),
            card("02:42:00:00:00:01", &["172.17.0.1"]),
            card(
                "52:00:00:00:00:01",
                &["fe80::1", "2001:db8::1", "192.0.2.5"],
            ),
        ];
        let ours = ["52:00:00:00:00:01"];
        assert_eq!(
            address_of(&guest, &ours),
            Some("192.0.2.5".parse().unwrap())
        );
        assert_eq!(address_of(&guest[..2], &ours), None);
    }

    proptest! {
        #[test]
        fn hostile_guests_are_read_without_panic(pieces: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (mut ours, mut theirs) = UnixStream::pair().unwrap();
                theirs.write_all(&pieces).await.unwrap();
                drop(theirs);
                let mut buffered = Vec::new();
                while let Ok(value) = line(&mut ours, &mut buffered).await {
                    interface(&value);
                }
            });
        }
    }
}
