//! The system call filter of the full sandbox.
//!
//! A deny list after Docker's default profile (moby `profiles/seccomp`): what it allows only with a capability is
//! refused here, since the sandbox has none. Refused calls fail with `EPERM`, which programs expect; only `clone3`
//! fails with `ENOSYS`, because its flags are behind a pointer that a filter cannot read and C libraries then
//! fall back to `clone`.
//!
//! The program is a binary search over the call numbers: when a filter is installed the kernel runs it once for every
//! system call there is (seccomp_cache_prepare), which for a linear list costs more than the rest of the sandbox's
//! privileges together.

use seccompiler::{BpfProgram, sock_filter};

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
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
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

/// TIOCSTI pushes input into a terminal shared with somebody else; TIOCLINUX does so by pasting.
const TERMINAL_INJECTION: [u32; 2] = [libc::TIOCSTI as u32, 0x541C];
/// AF_VSOCK reaches the hypervisor from every network namespace; AF_ALG has a history of exploits.
const ADDRESS_FAMILIES: [u32; 2] = [libc::AF_VSOCK.cast_unsigned(), libc::AF_ALG.cast_unsigned()];
/// Linux, the 32-bit personalities, and the query.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// What is done with one system call.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It fails with this error.
    Refuse(i32),
    /// It fails when one of these bits of the argument is set.
    RefuseFlags { argument: u32, flags: u32 },
    /// It fails when the argument has one of these values.
    RefuseValues {
        argument: u32,
        values: &'static [u32],
    },
    /// It fails unless the argument has one of these values.
    OnlyValues {
        argument: u32,
        values: &'static [u32],
    },
}

fn verdicts() -> Vec<(u32, Verdict)> {
    let refused = DENIED
        .iter()
        .chain(DENIED_HERE)
        .map(|call| (*call, Verdict::Refuse(libc::EPERM)));
    let flags = NAMESPACE_FLAGS.cast_unsigned();
    let judged = [
        (libc::SYS_clone3, Verdict::Refuse(libc::ENOSYS)),
        (libc::SYS_clone, Verdict::RefuseFlags { argument: 0, flags }),
        (
            libc::SYS_ioctl,
            Verdict::RefuseValues {
                argument: 1,
                values: &TERMINAL_INJECTION,
            },
        ),
        (
            libc::SYS_socket,
            Verdict::RefuseValues {
                argument: 0,
                values: &ADDRESS_FAMILIES,
            },
        ),
        (
            libc::SYS_personality,
            Verdict::OnlyValues {
                argument: 0,
                values: &PERSONALITIES,
            },
        ),
    ];
    let all = refused
        .chain(judged)
        .filter_map(|(call, verdict)| Some((u32::try_from(call).ok()?, verdict)));
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(call, _)| *call);
    all
}

/// The architecture of calls (linux/audit.h); those of another are not known by these numbers.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xC000_003E
} else if cfg!(target_arch = "aarch64") {
    0xC000_00B7
} else {
    0xC000_00F3
};
/// On x86-64, calls of the x32 ABI have this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// Instructions (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Results (linux/seccomp.h).
const ALLOW: u32 = 0x7fff_0000;
const FAIL: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

fn fail(errno: i32) -> u32 {
    FAIL | errno.cast_unsigned()
}

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Instructions for calls whose number is one of `calls`, which are sorted; the number is in the accumulator.
fn search(calls: &[(u32, Verdict)], out: &mut BpfProgram) {
    match calls {
        [] => out.push(instruction(RETURN, ALLOW, 0, 0)),
        [(call, verdict)] => {
            out.push(instruction(JUMP_IF_EQUAL, *call, 1, 0));
            out.push(instruction(RETURN, ALLOW, 0, 0));
            judge(*verdict, out);
        }
        _ => {
            let (lower, upper) = calls.split_at(calls.len() / 2);
            out.push(instruction(JUMP_IF_AT_LEAST, upper[0].0, 0, 1));
            let jump = out.len();
            out.push(instruction(JUMP, 0, 0, 0));
            search(lower, out);
            // Relative to the next instruction.
            out[jump].k = u32::try_from(out.len() - jump - 1).unwrap_or(u32::MAX);
            search(upper, out);
        }
    }
}

/// Instructions that end with the verdict.
fn judge(verdict: Verdict, out: &mut BpfProgram) {
    let (argument, matched, otherwise) = match verdict {
        Verdict::Refuse(errno) => return out.push(instruction(RETURN, fail(errno), 0, 0)),
        Verdict::RefuseFlags { argument, .. } | Verdict::RefuseValues { argument, .. } => {
            (argument, fail(libc::EPERM), ALLOW)
        }
        Verdict::OnlyValues { argument, .. } => (argument, ALLOW, fail(libc::EPERM)),
    };
    // The lower half of the argument, on little-endian machines first.
    out.push(instruction(
        LOAD,
        ARGUMENTS_OFFSET + argument * ARGUMENT_BYTES,
        0,
        0,
    ));
    let mut test = |code, value| {
        out.push(instruction(code, value, 0, 1));
        out.push(instruction(RETURN, matched, 0, 0));
    };
    match verdict {
        Verdict::RefuseFlags { flags, .. } => test(JUMP_IF_ANY_BIT, flags),
        Verdict::RefuseValues { values, .. } | Verdict::OnlyValues { values, .. } => {
            values.iter().for_each(|value| test(JUMP_IF_EQUAL, *value));
        }
        Verdict::Refuse(_) => {}
    }
    out.push(instruction(RETURN, otherwise, 0, 0));
}

/// The filter, made once and applied to each sandbox.
#[derive(Debug)]
pub(crate) struct Filter(BpfProgram);

impl Filter {
    /// Makes the filter for this architecture.
    pub(crate) fn new() -> Self {
        let mut program = vec![
            instruction(LOAD, ARCHITECTURE_OFFSET, 0, 0),
            instruction(JUMP_IF_EQUAL, ARCHITECTURE, 1, 0),
            instruction(RETURN, KILL_PROCESS, 0, 0),
            instruction(LOAD, NUMBER_OFFSET, 0, 0),
            instruction(JUMP_IF_AT_LEAST, X32_BIT, 0, 1),
            instruction(RETURN, fail(libc::ENOSYS), 0, 0),
        ];
        search(&verdicts(), &mut program);
        Self(program)
    }

    /// Applies the filter to the calling thread, for good. Also sets `no_new_privs`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(crate) fn apply(&self) -> Result<(), seccompiler::Error> {
        seccompiler::apply_filter(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call, and how many instructions that takes.
    fn run(
        program: &BpfProgram,
        architecture: u32,
        number: u32,
        arguments: [u32; 2],
    ) -> (u32, usize) {
        let (mut accumulator, mut next, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[next];
            next += 1;
            steps += 1;
            let mut branch = |taken: bool| next += usize::from(if taken { jt } else { jf });
            match code {
                LOAD if k == NUMBER_OFFSET => accumulator = number,
                LOAD if k == ARCHITECTURE_OFFSET => accumulator = architecture,
                LOAD => accumulator = arguments[((k - ARGUMENTS_OFFSET) / ARGUMENT_BYTES) as usize],
                JUMP => next += k as usize,
                JUMP_IF_EQUAL => branch(accumulator == k),
                JUMP_IF_AT_LEAST => branch(accumulator >= k),
                JUMP_IF_ANY_BIT => branch(accumulator & k != 0),
                RETURN => return (k, steps),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn exactly_the_listed_calls_are_refused_and_each_decision_is_short() {
        let filter = Filter::new().0;
        for number in 0..1_000_u32 {
            let (result, steps) = run(&filter, ARCHITECTURE, number, [0, 0]);
            let call = libc::c_long::from(number);
            let expected = match call {
                libc::SYS_clone3 => fail(libc::ENOSYS),
                _ if DENIED.contains(&call) || DENIED_HERE.contains(&call) => fail(libc::EPERM),
                _ => ALLOW,
            };
            assert_eq!(result, expected, "call {number}");
            assert!(steps < 32, "call {number} takes {steps} steps");
        }
    }

    #[test]
    fn arguments_decide_where_a_call_is_only_sometimes_dangerous() {
        let filter = Filter::new().0;
        let result =
            |call: libc::c_long, arguments| run(&filter, ARCHITECTURE, call as u32, arguments).0;
        let refused = fail(libc::EPERM);
        assert_eq!(
            result(libc::SYS_clone, [libc::CLONE_NEWUSER as u32 | 17, 0]),
            refused
        );
        assert_eq!(
            result(libc::SYS_clone, [libc::CLONE_VM as u32 | 17, 0]),
            ALLOW
        );
        assert_eq!(result(libc::SYS_ioctl, [0, libc::TIOCSTI as u32]), refused);
        assert_eq!(result(libc::SYS_ioctl, [0, libc::TCGETS as u32]), ALLOW);
        assert_eq!(result(libc::SYS_socket, [libc::AF_ALG as u32, 0]), refused);
        assert_eq!(result(libc::SYS_socket, [libc::AF_UNIX as u32, 0]), ALLOW);
        assert_eq!(result(libc::SYS_personality, [0x40_0000, 0]), refused);
        assert_eq!(result(libc::SYS_personality, [u32::MAX, 0]), ALLOW);
    }

    #[test]
    fn calls_of_other_abis_do_not_pass() {
        let filter = Filter::new().0;
        assert_eq!(run(&filter, 0x4000_0003, 0, [0, 0]).0, KILL_PROCESS);
        assert_eq!(
            run(&filter, ARCHITECTURE, X32_BIT | 1, [0, 0]).0,
            fail(libc::ENOSYS)
        );
    }
}
