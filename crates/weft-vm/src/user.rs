//! The user that a machine's process runs as: one of its own, so that a guest that breaks out of
//! the emulator has neither the node nor the other machines.

use std::io;
use std::path::Path;

use ring::digest::{SHA256, digest};
use rustix::process::{Gid, Uid};
use weft_types::UnitId;

/// The first of them. Distributions and systemd hand out none of these (systemd, "Users, Groups,
/// UIDs and GIDs": 1879048192 to 2147483647 is unused); the sandbox of tasks has those before.
pub(crate) const FIRST: u32 = 0x7100_0000;
/// The last of them.
pub(crate) const LAST: u32 = 0x71ff_ffff;
const KVM: &str = "/dev/kvm";

/// A user without a name, and the group of the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct User(u32);

impl User {
    /// The user of a unit's machine; `None` when this process cannot become another user.
    pub(crate) fn of(unit: UnitId) -> Option<Self> {
        Self::named(&unit.to_string())
    }

    /// The user for what has this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let hash = digest(&SHA256, name.as_bytes());
        let user = match hash.as_ref() {
            [a, b, c, ..] => Self(FIRST | u32::from_be_bytes([0, *a, *b, *c])),
            _ => return None,
        };
        let can = rustix::process::geteuid().is_root();
        (can && user.is_mapped("/proc/self/uid_map") && user.is_mapped("/proc/self/gid_map"))
            .then_some(user)
    }

    /// Whether the number means something in this user namespace; user_namespaces(7).
    fn is_mapped(self, map: &str) -> bool {
        let text = std::fs::read_to_string(map).unwrap_or_default();
        is_within(self.0, &text)
    }

    /// Makes the calling thread this user, for good. Only system calls: may be called between fork
    /// and exec.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn enter(self, group: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.0), Gid::from_raw(self.0));
        match group {
            Some(group) => rustix::thread::set_thread_groups(&[Gid::from_raw(group)])?,
            None => rustix::thread::set_thread_groups(&[])?,
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

fn is_within(id: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(_), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// The group that may use KVM, where that is not everybody.
pub(crate) fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(Path::new(KVM)).ok()?;
    // The group of root is not given away.
    (meta.mode() & 0o060 == 0o060 && meta.gid() != 0).then_some(meta.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_looked_for_in_the_namespace() {
        let all = "         0          0 4294967295\n";
        assert!(is_within(FIRST, all) && is_within(LAST, all));
        let few = "0 100000 65536\n70000 1 1\n";
        assert!(!is_within(FIRST, few));
        assert!(is_within(70_000, few) && !is_within(70_001, few));
        assert!(!is_within(5, "garbage\n1 2\n"));
    }
}
