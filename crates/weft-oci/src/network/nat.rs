//! The way out: containers speak to others under the node's own address.

use std::io::Write;
use std::process::{Command, Stdio};

use weft_unit::Missing;

use super::Bridge;
use crate::Error;
use crate::path::find_on_path;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// What there is no tool for.
pub(super) fn missing() -> Option<Missing> {
    if find_on_path("nft").is_some() || find_on_path("iptables").is_some() {
        return None;
    }
    Some(Missing {
        what: "a way out of containers".into(),
        why: "neither nft nor iptables is on PATH".into(),
        fix: "install nftables".into(),
    })
}

/// Lets packets pass between the bridge and the other interfaces of this network namespace.
pub(super) fn forward() -> Result<(), Error> {
    if std::fs::read(FORWARD).is_ok_and(|now| now.starts_with(b"1")) {
        return Ok(());
    }
    std::fs::write(FORWARD, "1").map_err(|e| Error::Network(format!("{FORWARD}: {e}")))
}

/// Makes the rules, which may be there already. Without a tool there is no way out, and the probe
/// has said so.
pub(super) fn ensure(table: &str, bridge: &Bridge) -> Result<(), Error> {
    if let Some(nft) = find_on_path("nft") {
        let rules = format!(
            "table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{\n\
             chain out {{ type nat hook postrouting priority 100; policy accept;\n\
             ip saddr {subnet} oifname != \"{name}\" masquerade\n}}\n}}\n",
            subnet = bridge.subnet,
            name = bridge.name,
        );
        return run(&nft, &["-f", "-"], &rules);
    }
    let Some(iptables) = find_on_path("iptables") else {
        return Ok(());
    };
    match masquerade(&iptables, "-C", table, bridge) {
        Ok(()) => Ok(()),
        Err(_) => masquerade(&iptables, "-A", table, bridge),
    }
}

fn masquerade(
    iptables: &std::path::Path,
    action: &str,
    table: &str,
    bridge: &Bridge,
) -> Result<(), Error> {
    let subnet = bridge.subnet.to_string();
    let from = ["-w", "-t", "nat", action, "POSTROUTING", "-s", &subnet];
    let to = ["!", "-o", &bridge.name, "-m", "comment", "--comment", table];
    run(
        iptables,
        &[&from[..], &to, &["-j", "MASQUERADE"]].concat(),
        "",
    )
}

/// Takes the rules away, if they are there.
pub(super) fn remove(table: &str, bridge: &Bridge) {
    if let Some(nft) = find_on_path("nft") {
        let rules = format!("table ip {table} {{}}\ndelete table ip {table}\n");
        let _ = run(&nft, &["-f", "-"], &rules);
    } else if let Some(iptables) = find_on_path("iptables") {
        let _ = masquerade(&iptables, "-D", table, bridge);
    }
}

fn run(program: &std::path::Path, words: &[&str], input: &str) -> Result<(), Error> {
    let failed = |why: String| Error::Network(format!("{}: {why}", program.display()));
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.trim().chars().take(500).collect()))
}
