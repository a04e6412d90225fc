//! A disk that forgets what was not synced, when its power fails.
//!
//! Names come and go in order, as in a journaling file system: a loss takes the newest of these changes, and a sync of any
//! file has all before it survive. Of each file every block that was written since its last sync may be lost by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::chance::Dice;
use crate::capture::recorder::Change;

/// What a disk writes at once, in bytes.
const BLOCKS: [usize; 2] = [512, 4096];

#[derive(Clone, Debug)]
enum Written {
    Bytes(usize, Vec<u8>),
    Size(usize),
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    since: Vec<Written>,
}

#[derive(Clone)]
enum Named {
    Added(PathBuf, usize),
    Moved(PathBuf, PathBuf),
    Gone(PathBuf),
}

/// Every file that is written.
#[derive(Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    since: Vec<Named>,
}

/// How a loss treats what was written since the last sync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    /// Up to some write, which is torn.
    Cut,
    /// Each block by itself.
    Scattered,
}

impl Disk {
    pub fn record(&mut self, change: &Change<'_>) {
        match *change {
            Change::Create(path) => match self.names.get(path) {
                Some(&known) => self.inodes[known].since.push(Written::Size(0)),
                None => {
                    self.inodes.push(Inode::default());
                    self.name(Named::Added(path.to_owned(), self.inodes.len() - 1));
                }
            },
            Change::Write(path, at, bytes) => {
                let written = Written::Bytes(at as usize, bytes.to_vec());
                self.inode(path).since.push(written);
            }
            Change::Cut(path, size) => {
                self.inode(path).since.push(Written::Size(size as usize));
            }
            Change::Sync(path) => {
                let inode = self.inode(path);
                for written in std::mem::take(&mut inode.since) {
                    apply(&mut inode.durable, &written);
                }
                self.since.clear();
                self.durable_names = self.names.clone();
            }
            Change::Rename(from, to) => self.name(Named::Moved(from.to_owned(), to.to_owned())),
            Change::Remove(path) if self.names.contains_key(path) => {
                self.name(Named::Gone(path.to_owned()));
            }
            Change::Remove(_)
            | Change::Open(_)
            | Change::Close(_)
            | Change::OpenIndex(_)
            | Change::CloseIndex(..) => {}
        }
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let number = self.names.get(path);
        let number = *number.unwrap_or_else(|| panic!("{} is no file", path.display()));
        &mut self.inodes[number]
    }

    fn name(&mut self, named: Named) {
        rename(&mut self.names, &named);
        self.since.push(named);
    }

    /// What is there when the power is back, by path.
    pub fn lose_power(&mut self, dice: &Dice) -> BTreeMap<PathBuf, Vec<u8>> {
        let kept = match dice.below(3) {
            0 => 0,
            1 => self.since.len(),
            _ => dice.below(self.since.len() as u64 + 1) as usize,
        };
        let mut names = std::mem::take(&mut self.durable_names);
        for named in &self.since[..kept] {
            rename(&mut names, named);
        }
        let mut left = Self::default();
        let mut found = BTreeMap::new();
        for (path, number) in names {
            let inode = &mut self.inodes[number];
            let fate = dice.pick(&[Fate::Lost, Fate::Kept, Fate::Cut, Fate::Scattered]);
            lose(inode, fate, dice);
            found.insert(path.clone(), inode.durable.clone());
            left.durable_names.insert(path.clone(), left.inodes.len());
            left.names.insert(path, left.inodes.len());
            left.inodes.push(Inode {
                durable: inode.durable.clone(),
                since: Vec::new(),
            });
        }
        *self = left;
        found
    }
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, named: &Named) {
    match named {
        Named::Added(path, number) => drop(names.insert(path.clone(), *number)),
        Named::Gone(path) => drop(names.remove(path)),
        Named::Moved(from, to) => {
            if let Some(number) = names.remove(from) {
                names.insert(to.clone(), number);
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, written: &Written) {
    match written {
        Written::Size(size) => bytes.resize(*size, 0),
        Written::Bytes(at, new) => {
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes[*at..at + new.len()].copy_from_slice(new);
        }
    }
}

fn lose(inode: &mut Inode, fate: Fate, dice: &Dice) {
    let mut since = std::mem::take(&mut inode.since);
    let block = dice.pick(&BLOCKS);
    match fate {
        Fate::Lost => since.clear(),
        Fate::Kept => {}
        Fate::Cut => {
            since.truncate(dice.below(since.len() as u64 + 1) as usize);
            if let Some(Written::Bytes(_, bytes)) = since.last_mut() {
                let left = dice.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(left - left % block);
            }
        }
        Fate::Scattered => {
            for written in since {
                match written {
                    Written::Bytes(at, bytes) => {
                        scatter(&mut inode.durable, at, &bytes, block, dice)
                    }
                    Written::Size(_) if dice.chance(500) => apply(&mut inode.durable, &written),
                    Written::Size(_) => {}
                }
            }
            return;
        }
    }
    for written in &since {
        apply(&mut inode.durable, written);
    }
}

/// Writes some of the blocks that `bytes` lie in.
fn scatter(durable: &mut Vec<u8>, at: usize, bytes: &[u8], block: usize, dice: &Dice) {
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes.len().min((at + from) / block * block + block - at);
        if dice.chance(600) {
            let part = Written::Bytes(at + from, bytes[from..to].to_vec());
            apply(durable, &part);
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let (a, b) = (Path::new("a"), Path::new("b"));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut disk = Disk::default();
            disk.record(&Change::Create(a));
            disk.record(&Change::Write(a, 0, &[1; 8192]));
            disk.record(&Change::Sync(a));
            disk.record(&Change::Write(a, 0, &[2; 8192]));
            disk.record(&Change::Rename(a, b));
            let found = disk.lose_power(&Dice::new(seed));
            assert_eq!(found.len(), 1);
            let (name, bytes) = found.first_key_value().expect("one");
            assert_eq!(bytes.len(), 8192);
            assert!(
                bytes
                    .chunks(512)
                    .all(|block| block == [1; 512] || block == [2; 512])
            );
            let blocks = bytes.chunks(512).filter(|block| block[0] == 2).count();
            seen.insert((name.clone(), blocks));
            // What is left is durable.
            assert_eq!(disk.lose_power(&Dice::new(seed + 1)), found);
        }
        assert!(seen.contains(&(a.to_owned(), 0)) && seen.contains(&(b.to_owned(), 16)));
        assert!(seen.len() > 10, "{seen:?}");
    }
}
