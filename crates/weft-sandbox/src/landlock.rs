//! Landlock rules of the full sandbox: writing only beneath given paths.
//!
//! A second wall behind the read-only mounts: it also holds for files reached by a descriptor or a mount that
//! should not have been there. Reading is governed by what is mounted.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::Path;

/// The newest ABI whose rights are asked for; older kernels apply what they know.
const NEWEST: ABI = ABI::V6;
/// `landlock_create_ruleset` flag that asks for the ABI version.
const CREATE_RULESET_VERSION: u32 = 1;

/// The kernel's Landlock ABI version, 0 when it has none.
pub(crate) fn abi() -> u32 {
    // SAFETY: with a null attribute and the version flag the call only returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            0,
            0,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Restricts the calling thread and its future children: files are changed only beneath `writable`, and written
/// but not created, removed or renamed beneath `devices`. Paths that do not exist are skipped.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub(crate) fn restrict_writes<'a>(
    writable: impl IntoIterator<Item = &'a Path>,
    devices: impl IntoIterator<Item = &'a Path>,
) -> Result<(), RulesetError> {
    let all = AccessFs::from_write(NEWEST);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .no_new_privs(true);
    let devices = devices
        .into_iter()
        .map(|path| (path, AccessFs::WriteFile | AccessFs::IoctlDev));
    for (path, access) in writable.into_iter().map(|path| (path, all)).chain(devices) {
        if let Ok(file) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
        }
    }
    let status = ruleset.restrict_self()?;
    debug_assert!(
        status.ruleset != RulesetStatus::NotEnforced || abi() == 0,
        "a kernel with Landlock enforces"
    );
    Ok(())
}
