//! The system call filter of the full sandbox.
//!
//! A deny list after Docker's default profile (moby `profiles/seccomp`): what it allows only with a capability is
//! refused here, since the sandbox has none. Refused calls fail with `EPERM`, which programs expect; only `clone3`
//! fails with `ENOSYS`, because its flags are behind a pointer that a filter cannot read and C libraries then
//! fall back to `clone`.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Refused with any arguments.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Refused as well where they exist.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_create_module,
    libc::SYS_get_kernel_syms,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_query_module,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Flags of `clone` that make a namespace.
const NAMESPACE_FLAGS: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// The compiled filters, made once and applied to each sandbox.
#[derive(Debug)]
pub(crate) struct Filters([BpfProgram; 2]);

impl Filters {
    /// Compiles the filters for this architecture.
    ///
    /// # Errors
    /// When the architecture is not supported.
    pub(crate) fn compile() -> Result<Self, seccompiler::BackendError> {
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
            DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
        refused.insert(libc::SYS_clone, each_flag(NAMESPACE_FLAGS)?);
        // TIOCSTI pushes input into a terminal shared with somebody else; TIOCLINUX does so by pasting.
        refused.insert(libc::SYS_ioctl, vec![argument_is(1, libc::TIOCSTI)?, argument_is(1, TIOCLINUX)?]);
        // Only ordinary personalities: READ_IMPLIES_EXEC and ADDR_NO_RANDOMIZE weaken hardening.
        refused.insert(libc::SYS_personality, each_flag(libc::READ_IMPLIES_EXEC)?);
        refused.insert(libc::SYS_socket, vec![argument_is(0, u64::from(AF_VSOCK))?, argument_is(0, AF_ALG)?]);
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self([compile(refused, libc::EPERM)?, compile(unknown, libc::ENOSYS)?]))
    }

    /// Applies the filters to the calling thread, for good. Also sets `no_new_privs`.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub(crate) fn apply(&self) -> Result<(), seccompiler::Error> {
        self.0.iter().try_for_each(|filter| seccompiler::apply_filter(filter))
    }
}

const TIOCLINUX: u64 = 0x541C;
const AF_VSOCK: u32 = libc::AF_VSOCK.cast_unsigned();
const AF_ALG: u64 = 38;

fn compile(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(calls, SeccompAction::Allow, action, architecture)?.try_into()
}

/// Matches when any one of `flags` is set in the first argument.
fn each_flag(flags: libc::c_int) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    (0..u32::BITS)
        .map(|bit| u64::from(flags.cast_unsigned()) & (1 << bit))
        .filter(|flag| *flag != 0)
        .map(|flag| {
            let operator = SeccompCmpOp::MaskedEq(flag);
            SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, flag)?])
        })
        .collect()
}

/// Matches when the argument has this value.
fn argument_is(index: u8, value: impl Into<u64>) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernel_limit() {
        let filters = Filters::compile().unwrap();
        for filter in &filters.0 {
            assert!(!filter.is_empty() && filter.len() < 4_096, "{} instructions", filter.len());
        }
    }
}
