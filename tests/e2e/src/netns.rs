//! Network namespaces: several hosts on one machine, each with an address of its own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A bridge in a namespace of its own, with hosts connected to it; removed with the test.
pub struct Namespaces {
    prefix: String,
    hosts: usize,
}

impl Namespaces {
    /// Host `0` to `hosts - 1` with the addresses `10.77.0.1` and up, as `<prefix>-h<number>`.
    ///
    /// # Panics
    /// When the kernel or `ip` refuses.
    pub fn new(hosts: usize) -> Self {
        // Tests of one process run side by side.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!(
            "wt{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let namespaces = Self { prefix, hosts };
        namespaces.remove();
        let switch = namespaces.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for number in 0..hosts {
            namespaces.add_host(number);
        }
        namespaces
    }

    fn add_host(&self, number: usize) {
        let (switch, host) = (self.switch(), self.host(number));
        let (inside, outside) = ("eth0", format!("p{number}"));
        ip(&["netns", "add", &host]);
        ip(&[
            "-n", &host, "link", "add", inside, "type", "veth", "peer", "name", &outside, "netns",
            &switch,
        ]);
        ip(&[
            "-n", &switch, "link", "set", &outside, "master", "br0", "up",
        ]);
        ip(&[
            "-n",
            &host,
            "addr",
            "add",
            &format!("{}/24", self.address(number)),
            "dev",
            inside,
        ]);
        ip(&["-n", &host, "link", "set", inside, "up"]);
        ip(&["-n", &host, "link", "set", "lo", "up"]);
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    /// The namespace of a host.
    pub fn host(&self, number: usize) -> String {
        format!("{}-h{number}", self.prefix)
    }

    /// The address of a host.
    pub fn address(&self, number: usize) -> String {
        format!("10.77.0.{}", number + 1)
    }

    /// Cuts a host off, or connects it again.
    pub fn connect(&self, number: usize, connected: bool) {
        let state = if connected { "up" } else { "down" };
        ip(&[
            "-n",
            &self.switch(),
            "link",
            "set",
            &format!("p{number}"),
            state,
        ]);
    }

    fn remove(&self) {
        for name in (0..self.hosts)
            .map(|number| self.host(number))
            .chain([self.switch()])
        {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip runs");
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
