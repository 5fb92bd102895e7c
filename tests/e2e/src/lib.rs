//! Support for tests of the built binary: clusters that end with their test, commands with their
//! output, polling with a deadline.

pub mod asked;
mod cluster;
mod command;
pub mod doors;
mod engine;
mod fleet;
mod netns;
mod processes;
mod site;
mod wait;

pub use cluster::{AgentProcess, Cluster, UpOptions};
pub use command::{Done, Weft, finish};
pub use engine::Engine;
pub use fleet::{AGENTS, Fleet, LEASE, Load, PATIENCE, lease_args, web_image};
pub use netns::Namespaces;
pub use processes::{instances_of, processes_with};
pub use site::{Site, TRUSTED};
pub use wait::{eventually, eventually_seen, eventually_some};

/// Files that every Debian has, with known independent checksums by `crc32c`.
pub const LICENSES: &str = "/usr/share/common-licenses";

/// Whether a test that needs root and namespaces can run here; says why not.
pub fn can_make_namespaces() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let ip = std::process::Command::new("ip").arg("-V").output().is_ok();
    if !root || !ip {
        eprintln!("skipped: needs root and iproute2");
    }
    root && ip
}
