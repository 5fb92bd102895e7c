//! What runs on this machine, whatever anybody says of it.

use std::path::Path;

/// Processes with this text in their command line.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let path = Path::new("/proc").join(pid.to_string()).join("cmdline");
            std::fs::read(path).is_ok_and(|line| {
                String::from_utf8_lossy(&line)
                    .replace('\0', " ")
                    .contains(text)
            })
        })
        .collect()
}

/// The first process of every instance of a program. A shell looks like itself for a moment when it
/// starts another program. What ended while the others were looked for did not run beside them.
pub fn instances_of(command: &str) -> Vec<u32> {
    let all = processes_with(command);
    let is_first = |pid: &u32| parent(*pid).is_some_and(|parent| !all.contains(&parent));
    all.iter().copied().filter(is_first).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}
