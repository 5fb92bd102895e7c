//! What the kernel says of processes.

use std::str::FromStr;

/// The number of the first field after the process's name, which may hold anything.
const FIRST: usize = 3;

/// A field of a process's `stat`, counted from 1 as in proc_pid_stat(5); those from the third on.
/// `None` when the process is gone.
pub(crate) fn stat_field<T: FromStr>(pid: i32, number: usize) -> Option<T> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    field(&stat, number)
}

fn field<T: FromStr>(stat: &str, number: usize) -> Option<T> {
    let (_, after) = stat.rsplit_once(") ")?;
    after
        .split(' ')
        .nth(number.checked_sub(FIRST)?)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_shift_the_fields() {
        let stat = "7 (a ) R b) S 1 7 7 0 -1 4194560 5";
        assert_eq!(field::<char>(stat, 3), Some('S'));
        assert_eq!(field::<i32>(stat, 4), Some(1));
        assert_eq!(field::<u64>(stat, 9), Some(4_194_560));
        assert_eq!(field::<u64>(stat, 99), None);
        assert_eq!(field::<u64>("", 4), None);
        let own = stat_field::<i32>(std::process::id() as i32, 4);
        assert_eq!(own, Some(std::os::unix::process::parent_id() as i32));
    }
}
