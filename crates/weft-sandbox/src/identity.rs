//! Who a sandboxed process is: an unprivileged user without any capability, for good.

use crate::namespaces::INSIDE_ID;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Takes on [`INSIDE_ID`] in the user namespace just entered, without further groups.
///
/// # Errors
/// When the namespace does not map it.
pub(crate) fn assume() -> Result<(), Errno> {
    let (uid, gid) = (
        rustix::process::Uid::from_raw(INSIDE_ID),
        rustix::process::Gid::from_raw(INSIDE_ID),
    );
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Gives up every capability, also those a program could get by being executed, and the means to get others.
///
/// # Errors
/// Not in practice: giving up needs no privilege.
pub(crate) fn renounce() -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability of this kernel.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}
