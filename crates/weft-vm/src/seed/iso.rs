//! A small ISO 9660 volume with Joliet names: enough of ECMA-119 for a few files in its root.
//!
//! The plain names have eight characters, in upper case; every system that reads Joliet sees the
//! real ones.

/// Bytes of a logical block.
const BLOCK: usize = 2_048;
/// The first block of the volume descriptors.
const DESCRIPTORS: usize = 16;
/// Blocks before the path tables: descriptors of the plain and of the Joliet tree, and their end.
const TABLES: usize = DESCRIPTORS + 3;
/// The plain tree's path tables are two blocks, little and big endian, and so are Joliet's.
const ROOTS: usize = TABLES + 4;
/// The block of the first file, after one block for each of the two root directories.
const FILES: usize = ROOTS + 2;

/// A file of a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    /// At most 32 characters; the root directory is one block.
    pub(super) name: &'a str,
    pub(super) content: &'a [u8],
}

/// Makes the bytes of a volume. Its times are those of the epoch, so that the same files make the
/// same volume.
pub(super) fn volume(label: &str, files: &[File<'_>]) -> Vec<u8> {
    let mut places = Vec::new();
    let mut next = FILES;
    for file in files {
        places.push(next as u32);
        next += file.content.len().div_ceil(BLOCK).max(1);
    }
    let blocks = next as u32;
    let mut image = vec![0; next * BLOCK];
    for (tree, at) in [Tree::Plain, Tree::Joliet].into_iter().zip(DESCRIPTORS..) {
        put(&mut image, at, &descriptor(tree, label, blocks));
        let table = TABLES + 2 * tree.index();
        put(
            &mut image,
            table,
            &path_table(tree, u32::to_le_bytes, u16::to_le_bytes),
        );
        put(
            &mut image,
            table + 1,
            &path_table(tree, u32::to_be_bytes, u16::to_be_bytes),
        );
        put(&mut image, tree.root(), &directory(tree, files, &places));
    }
    put(&mut image, DESCRIPTORS + 2, b"\xffCD001\x01");
    for (file, place) in files.iter().zip(&places) {
        put(&mut image, *place as usize, file.content);
    }
    image
}

fn put(image: &mut [u8], block: usize, bytes: &[u8]) {
    let at = block * BLOCK;
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Which of the two sets of names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Plain,
    Joliet,
}

impl Tree {
    fn index(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Joliet => 1,
        }
    }

    fn root(self) -> usize {
        ROOTS + self.index()
    }

    /// Text in the tree's characters: bytes, or UCS-2 with the high byte first.
    fn text(self, text: &str) -> Vec<u8> {
        match self {
            Self::Plain => text.bytes().collect(),
            Self::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    /// Text in a field of fixed length, filled up with spaces.
    fn field(self, text: &str, length: usize) -> Vec<u8> {
        let mut field = self.text(text);
        field.truncate(length);
        while field.len() < length {
            field.extend(self.text(" "));
        }
        field.truncate(length);
        field
    }

    fn file_name(self, name: &str) -> Vec<u8> {
        match self {
            Self::Joliet => self.text(name),
            Self::Plain => {
                let plain = |c: char| match c.to_ascii_uppercase() {
                    c @ ('A'..='Z' | '0'..='9') => c,
                    _ => '_',
                };
                let short: String = name.chars().map(plain).take(8).collect();
                self.text(&format!("{short}.;1"))
            }
        }
    }
}

/// A number in both byte orders.
fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

fn both_short(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// ECMA-119 9.1.
fn directory_record(name: &[u8], block: u32, bytes: u32, is_directory: bool) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(block));
    record.extend(both(bytes));
    // 1 January 1970, in years since 1900.
    record.extend([70, 1, 1, 0, 0, 0, 0]);
    record.push(if is_directory { 2 } else { 0 });
    record.extend([0, 0]);
    record.extend(both_short(1));
    record.push(name.len() as u8);
    record.extend(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = record.len() as u8;
    record
}

fn directory(tree: Tree, files: &[File<'_>], places: &[u32]) -> Vec<u8> {
    let root = tree.root() as u32;
    let mut named: Vec<_> = files
        .iter()
        .zip(places)
        .map(|(file, place)| (tree.file_name(file.name), *place, file.content.len() as u32))
        .collect();
    named.sort();
    let mut all = directory_record(&[0], root, BLOCK as u32, true);
    all.extend(directory_record(&[1], root, BLOCK as u32, true));
    for (name, place, length) in named {
        all.extend(directory_record(&name, place, length, false));
    }
    all
}

/// ECMA-119 9.4: the root alone.
fn path_table(tree: Tree, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(long(tree.root() as u32));
    table.extend(short(1));
    table.extend([0, 0]);
    table
}

/// ECMA-119 8.4 and 8.5.
fn descriptor(tree: Tree, label: &str, blocks: u32) -> Vec<u8> {
    let mut all = match tree {
        Tree::Plain => vec![1],
        Tree::Joliet => vec![2],
    };
    all.extend(b"CD001\x01\0");
    all.extend(tree.field("LINUX", 32));
    all.extend(tree.field(label, 32));
    all.extend([0; 8]);
    all.extend(both(blocks));
    let mut escape = [0; 32];
    if tree == Tree::Joliet {
        // UCS-2 level 3.
        escape[..3].copy_from_slice(b"%/E");
    }
    all.extend(escape);
    all.extend(both_short(1));
    all.extend(both_short(1));
    all.extend(both_short(BLOCK as u16));
    all.extend(both(10));
    let table = (TABLES + 2 * tree.index()) as u32;
    all.extend(table.to_le_bytes());
    all.extend([0; 4]);
    all.extend((table + 1).to_be_bytes());
    all.extend([0; 4]);
    all.extend(directory_record(
        &[0],
        tree.root() as u32,
        BLOCK as u32,
        true,
    ));
    for length in [128, 128, 128, 128, 37, 37, 37] {
        all.extend(tree.field("", length));
    }
    for _ in 0..2 {
        all.extend(b"1970010100000000\0");
    }
    for _ in 0..2 {
        all.extend(b"0000000000000000\0");
    }
    all.extend([1, 0]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Mounts a volume and reads its files back.
    fn mounted(image: &[u8], label: &str, names: &[&str]) -> Option<Vec<Vec<u8>>> {
        let dir = tempfile::tempdir().ok()?;
        let file = dir.path().join("seed.iso");
        std::fs::write(&file, image).ok()?;
        let blkid = Command::new("blkid")
            .args(["-o", "export"])
            .arg(&file)
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&blkid.stdout).into_owned();
        assert!(said.contains(&format!("LABEL={label}\n")), "{said}");
        assert!(said.contains("TYPE=iso9660"), "{said}");
        let at = dir.path().join("mnt");
        std::fs::create_dir(&at).ok()?;
        let mount = Command::new("mount")
            .args(["-o", "loop,ro"])
            .arg(&file)
            .arg(&at)
            .output();
        if !mount.ok()?.status.success() {
            return None;
        }
        let read = names
            .iter()
            .map(|name| std::fs::read(at.join(name)).unwrap());
        let all = read.collect();
        assert!(Command::new("umount").arg(&at).status().unwrap().success());
        Some(all)
    }

    #[test]
    fn files_are_found_by_the_kernel_under_their_real_names() {
        let large = vec![b'x'; 3 * BLOCK + 5];
        let files = [
            File {
                name: "user-data",
                content: b"#cloud-config\n",
            },
            File {
                name: "meta-data",
                content: b"",
            },
            File {
                name: "network-config",
                content: &large,
            },
        ];
        let image = volume("cidata", &files);
        assert_eq!(image.len() % BLOCK, 0);
        assert_eq!(descriptor(Tree::Plain, "cidata", 1).len(), 883);
        let names = files.map(|file| file.name);
        match mounted(&image, "cidata", &names) {
            Some(read) => assert!(read.iter().zip(files).all(|(r, f)| r == f.content)),
            None => eprintln!("skipped: needs blkid, loop devices and the isofs module"),
        }
    }
}
