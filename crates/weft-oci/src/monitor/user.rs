//! Who the program in a container is, as the image's own files name them.

use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde_json::{Value, json};

use crate::Error;

/// How much of a file of users is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(PartialEq, Eq, Debug)]
struct Who {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// Completes the configuration with the user, and with the home directory in the environment.
pub(super) fn complete(config: &mut Value, user: &str, rootfs: &Path) -> Result<(), Error> {
    let read = |name: &str| read_inside(rootfs, name).unwrap_or_default();
    let who = find(user, &read("etc/passwd"), &read("etc/group"))?;
    let process = &mut config["process"];
    process["user"] = json!({"uid": who.uid, "gid": who.gid, "additionalGids": who.groups});
    if let Some(env) = process["env"].as_array_mut()
        && !env
            .iter()
            .any(|pair| pair.as_str().is_some_and(|p| p.starts_with("HOME=")))
    {
        env.push(json!(format!("HOME={}", who.home)));
    }
    Ok(())
}

/// Reads a file as a process in the container would find it: links stay inside.
fn read_inside(rootfs: &Path, name: &str) -> std::io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, rootfs, flags, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(user: &str, passwd: &str, group: &str) -> Result<Who, Error> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "root" } else { name };
    let entry = passwd.lines().map(fields).find(|entry| {
        entry.first() == Some(&name) || (is_number(name) && entry.get(2) == Some(&name))
    });
    let number = |index: usize| -> Option<u32> { entry.as_ref()?.get(index)?.parse().ok() };
    let uid = match (number(2), name.parse::<u32>()) {
        (Some(uid), _) | (None, Ok(uid)) => uid,
        (None, Err(_)) if name == "root" => 0,
        _ => return Err(Error::Spec(format!("user: the image has no user {name:?}"))),
    };
    let gid = match group_name {
        Some(wanted) => find_group(wanted, group)?,
        None => number(3).unwrap_or(0),
    };
    let named = entry.as_ref().and_then(|entry| entry.first().copied());
    Ok(Who {
        uid,
        gid,
        groups: match (group_name, named) {
            (None, Some(named)) => memberships(named, gid, group),
            _ => Vec::new(),
        },
        home: entry
            .as_ref()
            .and_then(|entry| entry.get(5))
            .filter(|home| home.starts_with('/'))
            .map_or("/", |home| *home)
            .to_owned(),
    })
}

fn fields(line: &str) -> Vec<&str> {
    line.trim().split(':').collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn find_group(wanted: &str, group: &str) -> Result<u32, Error> {
    let named = group
        .lines()
        .map(fields)
        .find(|entry| entry.first() == Some(&wanted))
        .and_then(|entry| entry.get(2)?.parse().ok());
    named
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| Error::Spec(format!("user: the image has no group {wanted:?}")))
}

fn memberships(name: &str, gid: u32, group: &str) -> Vec<u32> {
    group
        .lines()
        .map(fields)
        .filter(|entry| {
            entry
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == name))
        })
        .filter_map(|entry| entry.get(2)?.parse().ok())
        .filter(|group| *group != gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:50:web,root\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let web = find("web", PASSWD, GROUP).unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 34, "/srv"));
        assert_eq!(web.groups, [50]);
        assert_eq!(find("33", PASSWD, GROUP).unwrap(), web);
        let other = find("web:log", PASSWD, GROUP).unwrap();
        assert_eq!((other.gid, other.groups), (50, vec![]));
        let stranger = find("1000:1000", PASSWD, GROUP).unwrap();
        assert_eq!((stranger.uid, stranger.gid), (1000, 1000));
        assert_eq!(find("", "", "").unwrap().uid, 0);
    }

    #[test]
    fn whom_the_image_does_not_know_is_refused() {
        assert!(find("nobody", PASSWD, GROUP).is_err());
        assert!(find("web:none", PASSWD, GROUP).is_err());
    }

    #[test]
    fn links_of_the_image_do_not_lead_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/passwd")).unwrap();
        assert!(read_inside(dir.path(), "etc/passwd").is_err());
    }
}
