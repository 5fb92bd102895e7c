//! Looks at an application before it is run: its files on disk, its keys, its values.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use weft_compose_rules::policy::{self, Model, Reference, Refusal, Rights, Use};
use weft_compose_rules::{MAX_YAML_BYTES, parse_yaml};
use weft_types::Reason;
use weft_unit::{Error, Step};

/// The most files that extend each other.
const MAX_FILES: usize = 16;

/// The directory that an application may not leave.
pub(crate) struct Ground<'a> {
    /// Its root, absolute.
    pub(crate) root: &'a Path,
    /// Paths beneath it that the repository has as symbolic links.
    pub(crate) links: &'a [String],
}

/// A refusal as the port wants it.
pub(crate) fn refused(refusal: Refusal) -> Error {
    if refusal.needs_right {
        let detail =
            format!("{refusal}; only where the server's `allow_privileged` lists the namespace");
        return Error::new(Step::Prepare, Reason::PermissionDenied, detail);
    }
    Error::new(Step::Prepare, Reason::InvalidSpec, refusal.to_string())
}

fn invalid(field: &str, message: impl std::fmt::Display) -> Error {
    Error::new(
        Step::Prepare,
        Reason::InvalidSpec,
        format!("{field}: {message}"),
    )
}

/// Checks a Compose file, and every file that Compose would read with it.
pub(crate) fn check_files(ground: &Ground<'_>, file: &Path, rights: Rights) -> Result<(), Error> {
    let mut waiting = vec![("the Compose file".to_owned(), file.to_owned())];
    let mut seen = BTreeSet::new();
    while let Some((field, file)) = waiting.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        if seen.len() > MAX_FILES {
            return Err(invalid(&field, format!("more than {MAX_FILES} files")));
        }
        let text = ground.read(&field, &file)?;
        let shown = file
            .strip_prefix(ground.root)
            .unwrap_or(&file)
            .display()
            .to_string();
        let doc = parse_yaml(&text).map_err(|why| invalid(&shown, why))?;
        let directory = file.parent().unwrap_or(ground.root);
        for reference in policy::check_raw(&doc, rights).map_err(refused)? {
            let path = directory.join(&reference.path);
            match reference.purpose {
                Use::Extends => waiting.push((reference.field, path)),
                _ => ground.check(&reference, &path)?,
            }
        }
    }
    // Compose reads it beside the file, unasked.
    let dotenv = file.with_file_name(".env");
    match ground.open(".env", &dotenv) {
        Err(error) if dotenv.symlink_metadata().is_ok() => Err(error),
        _ => Ok(()),
    }
}

/// Checks what Compose made of the files.
pub(crate) fn check_model(ground: &Ground<'_>, text: &str, rights: Rights) -> Result<Model, Error> {
    let doc = parse_yaml(text).map_err(|why| invalid("what Compose made of the file", why))?;
    let model = policy::check_model(&doc, rights).map_err(refused)?;
    for reference in &model.references {
        let path = Path::new(&reference.path);
        if reference.purpose == Use::Mount && !ground.holds(path) {
            rights
                .need(&reference.field, policy::OF_THE_NODE)
                .map_err(refused)?;
        }
        ground.check(reference, path)?;
    }
    Ok(model)
}

impl Ground<'_> {
    /// Whether a path is beneath the root, as far as its text says.
    fn holds(&self, path: &Path) -> bool {
        self.beneath("", path).is_ok()
    }

    /// A path beneath the root, without `.` and `..`.
    fn beneath(&self, field: &str, path: &Path) -> Result<PathBuf, Error> {
        let mut plain = PathBuf::new();
        for component in path.components() {
            match component {
                Component::ParentDir => {
                    plain.pop();
                }
                Component::CurDir => {}
                other => plain.push(other),
            }
        }
        match plain.strip_prefix(self.root) {
            Ok(inside) => Ok(inside.to_owned()),
            Err(_) => Err(invalid(
                field,
                format!("{} is outside the application's directory", path.display()),
            )),
        }
    }

    /// Opens a file or directory beneath the root; nothing on its way may be a symbolic link.
    fn open(&self, field: &str, path: &Path) -> Result<std::fs::File, Error> {
        let inside = self.beneath(field, path)?;
        if let Some(link) = self.link_at(&inside) {
            return Err(invalid(
                field,
                format!("{link} is a symbolic link; write the file itself"),
            ));
        }
        let refused = |error: rustix::io::Errno| {
            let why = match error {
                rustix::io::Errno::NOENT => "is not there".to_owned(),
                rustix::io::Errno::LOOP => "leads through a symbolic link".to_owned(),
                other => other.to_string(),
            };
            invalid(field, format!("{} {why}", inside.display()))
        };
        let root = std::fs::File::open(self.root)
            .map_err(|error| Error::new(Step::Prepare, Reason::StorageError, error.to_string()))?;
        let name = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &inside
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat2(&root, name, flags, Mode::empty(), resolve).map_err(refused)?;
        Ok(file.into())
    }

    /// A link on the way to a path, or beneath it.
    fn link_at(&self, inside: &Path) -> Option<&str> {
        let meets = |link: &&String| {
            let link = Path::new(link.as_str());
            inside.starts_with(link) || link.starts_with(inside)
        };
        self.links.iter().find(meets).map(String::as_str)
    }

    /// Checks that a path is what it is used for, and beneath the root.
    fn check(&self, reference: &Reference, path: &Path) -> Result<(), Error> {
        let file = self.open(&reference.field, path)?;
        let meta = file
            .metadata()
            .map_err(|error| invalid(&reference.field, error))?;
        let fits = match reference.purpose {
            Use::Context => meta.is_dir(),
            Use::Mount => meta.is_dir() || meta.is_file(),
            Use::File | Use::Extends => meta.is_file(),
        };
        if fits {
            return Ok(());
        }
        Err(invalid(
            &reference.field,
            format!("{} is of the wrong type", path.display()),
        ))
    }

    /// Reads a small text.
    fn read(&self, field: &str, path: &Path) -> Result<String, Error> {
        let file = self.open(field, path)?;
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(invalid(field, format!("{} is not a file", path.display())));
        }
        let mut text = String::new();
        let limit = MAX_YAML_BYTES as u64 + 1;
        file.take(limit)
            .read_to_string(&mut text)
            .map_err(|error| invalid(field, error))?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const RIGHTS: Rights = Rights { privileged: false };

    fn check(dir: &Path, text: &str, links: &[String]) -> Result<(), Error> {
        let file = dir.join("compose.yaml");
        fs::write(&file, text).unwrap();
        check_files(&Ground { root: dir, links }, &file, RIGHTS)
    }

    #[test]
    fn files_outside_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        symlink("/etc/hostname", root.join("linked.env")).unwrap();
        symlink("/etc", root.join("linked")).unwrap();
        fs::write(root.join("good.env"), "A=1").unwrap();
        fs::write(root.join("checked-out-link.env"), "../../etc/shadow").unwrap();
        let links = ["checked-out-link.env".to_owned()];
        let with = |file: &str| format!("services: {{a: {{image: a, env_file: {file}}}}}");
        check(root, &with("good.env"), &links).unwrap();
        check(root, &with("./sub/../good.env"), &links).unwrap();
        for file in [
            "/etc/hostname",
            "../x",
            "linked.env",
            "linked/hostname",
            "checked-out-link.env",
            "missing.env",
            "a/../../x",
        ] {
            let error = check(root, &with(file), &links).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidSpec, "{file}");
            assert!(error.detail.starts_with("services.a.env_file"), "{error}");
        }
    }

    #[test]
    fn what_is_extended_is_checked_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let extends = "services: {a: {extends: {file: base.yaml, service: b}}}";
        fs::write(
            dir.path().join("base.yaml"),
            "services: {b: {image: b, privileged: true}}",
        )
        .unwrap();
        let error = check(dir.path(), extends, &[]).unwrap_err();
        assert_eq!(error.reason, Reason::PermissionDenied);
        let outside = "services: {a: {extends: {file: /etc/passwd, service: b}}}";
        assert_eq!(
            check(dir.path(), outside, &[]).unwrap_err().reason,
            Reason::InvalidSpec
        );
        let endless = "services: {a: {extends: {file: compose.yaml, service: b}}, b: {image: b}}";
        check(dir.path(), endless, &[]).unwrap();
    }

    #[test]
    fn a_linked_environment_beside_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/hostname", dir.path().join(".env")).unwrap();
        assert!(check(dir.path(), "services: {a: {image: a}}", &[]).is_err());
    }

    #[test]
    fn mounts_stay_beneath_the_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        fs::create_dir(dir.path().join("html")).unwrap();
        symlink("/etc", dir.path().join("link")).unwrap();
        let ground = Ground {
            root: dir.path(),
            links: &[],
        };
        let model = |source: &str| {
            let text = format!("services: {{a: {{image: a, volumes: ['{source}:/x:ro']}}}}");
            check_model(&ground, &text, RIGHTS)
        };
        model(&format!("{root}/html")).unwrap();
        for source in [format!("{root}/link"), format!("{root}/missing")] {
            let error = model(&source).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidSpec, "{source}");
        }
        for source in [
            "/etc".to_owned(),
            format!("{root}/../x"),
            format!("{root}/html/../../etc"),
        ] {
            let error = model(&source).unwrap_err();
            assert_eq!(error.reason, Reason::PermissionDenied, "{source}");
        }
    }
}
