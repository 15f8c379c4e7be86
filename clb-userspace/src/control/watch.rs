//! Sees when a file may have another content, however that is done: written in place, renamed over, or reached through a
//! symbolic link that points elsewhere now, as editors, `mv` and the mounts of Kubernetes do.
//!
//! Directories are watched and never the file, for another file takes its name: every directory on the way from the root to
//! the file, also through symbolic links, for the one name in it that is on the way. Many events come for one change, and
//! some in the middle of it, so it counts only when nothing more happened for a moment; then the way is looked up anew.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs, future, io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init},
    io::Errno,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

/// A file that is watched.
pub(super) struct Watch {
    file: PathBuf,
    way: Way,
    /// When a change counts, if nothing more happens.
    quiet: Option<Instant>,
}

/// The way to a file, watched.
struct Way {
    events: AsyncFd<OwnedFd>,
    /// By the kernel's number for the watch.
    directories: BTreeMap<i32, Directory>,
    /// Whether the directory that the file is in, or ought to be, is among them.
    reaches_the_file: io::Result<()>,
}

#[derive(Default)]
struct Directory {
    path: PathBuf,
    /// What in it is on the way.
    names: BTreeSet<OsString>,
}

/// What happened on the way to a file.
enum Happened {
    Nothing,
    /// Something that may be all of a change.
    Change,
    /// The beginning of a change that ends with another event.
    Beginning,
}

impl Watch {
    /// Watches this file. Fails if the directory that it is in cannot be watched.
    pub fn new(file: &Path) -> anyhow::Result<Self> {
        let file = std::path::absolute(file).context("find this process's folder")?;
        let way = Way::to(&file)?;
        if let Err(error) = &way.reaches_the_file {
            bail!("watch {}: {error}\nhelp: `--watch` needs a folder that is there", file.display());
        }
        // A change from before the watches were there counts, too.
        Ok(Self { file, way, quiet: Some(Instant::now() + QUIET) })
    }

    /// Waits until the file may have another content. Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        loop {
            let quiet = self.quiet;
            let is_quiet = async {
                match quiet {
                    Some(quiet) => sleep_until(quiet).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                happened = self.way.next() => match happened? {
                    Happened::Nothing => {}
                    Happened::Change => self.quiet = Some(Instant::now() + QUIET),
                    Happened::Beginning => self.quiet = None,
                },
                () = is_quiet => {
                    self.quiet = None;
                    // First the watches, so that no change comes between them and the reading of the file. If its directory
                    // is gone, those above it are watched, and reading the file says so.
                    self.way = Way::to(&self.file)?;
                    return Ok(());
                }
            }
        }
    }
}

impl Way {
    fn to(file: &Path) -> anyhow::Result<Self> {
        let events =
            init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).context("ask the kernel for changes of files")?;
        let mut directories: BTreeMap<i32, Directory> = BTreeMap::new();
        let mut reaches_the_file = Ok(());
        for (path, name) in way_to(file) {
            reaches_the_file = add_watch(&events, &path, WATCHED).map_err(io::Error::from).map(|watch| {
                let directory = directories.entry(watch).or_default();
                directory.path = path;
                directory.names.insert(name);
            });
        }
        #[expect(deprecated, reason = "its successor is unsafe; this descriptor is owned and stays the same")]
        let events = AsyncFd::new(events).context("wait for changes of files")?;
        Ok(Self { events, directories, reaches_the_file })
    }

    async fn next(&self) -> anyhow::Result<Happened> {
        let mut ready = self.events.readable().await.context("wait for changes of the file")?;
        let happened = self.read()?;
        ready.clear_ready();
        Ok(happened)
    }

    /// Reads all that happened; of several events on the way the last one counts.
    fn read(&self) -> anyhow::Result<Happened> {
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut reader = Reader::new(self.events.get_ref(), &mut buffer);
        let mut happened = Happened::Nothing;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(happened),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("read the changes of the file's folder"),
            };
            let Some(name) = event.file_name() else {
                // More happened than the kernel keeps, or a directory is gone.
                happened = Happened::Change;
                continue;
            };
            let name = OsStr::from_bytes(name.to_bytes());
            let Some(directory) = self.directories.get(&event.wd()).filter(|watched| watched.names.contains(name))
            else {
                continue;
            };
            let is_new = event.events().contains(ReadFlags::CREATE);
            happened = if is_new && is_to_be_written(&directory.path.join(name)) {
                Happened::Beginning
            } else {
                Happened::Change
            };
        }
    }
}

/// Whether what was just made is a file that its maker writes to and closes, and not a link to one that is whole.
fn is_to_be_written(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// The directories that the kernel looks into when it opens the file, and for which name.
fn way_to(file: &Path) -> Vec<(PathBuf, OsString)> {
    let mut way = Vec::new();
    let mut directory = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(file);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            directory.pop();
            continue;
        }
        way.push((directory.clone(), name.clone()));
        let next = directory.join(&name);
        match fs::read_link(&next) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                if target.is_absolute() {
                    directory = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    rest.push_front(name);
                }
            }
            _ => directory = next,
        }
    }
    way
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Not every write: a change of content ends with the writer closing the file.
const WATCHED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);
/// Longer than an editor takes from its first step to its last one.
const QUIET: Duration = Duration::from_millis(200);
/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A way to change a file, beginning with a folder in which `clb.yaml` says `old`, or leads to what does.
    struct Case {
        name: &'static str,
        prepare: fn(&Path),
        change: fn(&Path),
    }

    const CASES: &[Case] = &[
        Case { name: "written in place", prepare: plain, change: |folder| write(folder, "clb.yaml", "new") },
        Case {
            name: "another file renamed over it",
            prepare: plain,
            change: |folder| {
                write(folder, ".clb.yaml.tmp", "new");
                rename(folder, ".clb.yaml.tmp", "clb.yaml");
            },
        },
        Case {
            name: "an editor: the old one renamed away, a new one written, the old one removed",
            prepare: plain,
            change: |folder| {
                write(folder, "4913", "");
                fs::remove_file(folder.join("4913")).unwrap();
                rename(folder, "clb.yaml", "clb.yaml~");
                write(folder, "clb.yaml", "new");
                fs::remove_file(folder.join("clb.yaml~")).unwrap();
            },
        },
        Case {
            name: "removed, and another one linked in its place",
            prepare: plain,
            change: |folder| {
                write(folder, "other", "new");
                fs::remove_file(folder.join("clb.yaml")).unwrap();
                fs::hard_link(folder.join("other"), folder.join("clb.yaml")).unwrap();
            },
        },
        Case {
            name: "a mount of Kubernetes: the link `..data` renamed over",
            prepare: |folder| {
                fs::create_dir(folder.join("..1")).unwrap();
                write(folder, "..1/clb.yaml", "old");
                symlink("..1", folder.join("..data")).unwrap();
                symlink("..data/clb.yaml", folder.join("clb.yaml")).unwrap();
            },
            change: |folder| {
                fs::create_dir(folder.join("..2")).unwrap();
                write(folder, "..2/clb.yaml", "new");
                symlink("..2", folder.join("..data_tmp")).unwrap();
                rename(folder, "..data_tmp", "..data");
                fs::remove_dir_all(folder.join("..1")).unwrap();
            },
        },
        Case {
            name: "a link to a file in another folder, which is written",
            prepare: elsewhere,
            change: |folder| write(folder, "releases/1/lb.yaml", "new"),
        },
        Case {
            name: "a link through a link, which is made anew in another folder",
            prepare: elsewhere,
            change: |folder| {
                fs::create_dir(folder.join("releases/2")).unwrap();
                write(folder, "releases/2/lb.yaml", "new");
                fs::remove_file(folder.join("releases/current")).unwrap();
                symlink("2", folder.join("releases/current")).unwrap();
            },
        },
        Case {
            name: "the whole folder replaced",
            prepare: |folder| {
                fs::create_dir(folder.join("conf")).unwrap();
                write(folder, "conf/lb.yaml", "old");
                symlink("conf/lb.yaml", folder.join("clb.yaml")).unwrap();
            },
            change: |folder| {
                fs::create_dir(folder.join("conf.new")).unwrap();
                write(folder, "conf.new/lb.yaml", "new");
                rename(folder, "conf", "conf.old");
                rename(folder, "conf.new", "conf");
            },
        },
    ];

    fn plain(folder: &Path) {
        write(folder, "clb.yaml", "old");
    }

    fn elsewhere(folder: &Path) {
        fs::create_dir_all(folder.join("releases/1")).unwrap();
        write(folder, "releases/1/lb.yaml", "old");
        symlink("1", folder.join("releases/current")).unwrap();
        symlink(folder.join("releases/current/../current/lb.yaml"), folder.join("clb.yaml")).unwrap();
    }

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).unwrap();
    }

    fn rename(folder: &Path, from: &str, to: &str) {
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }

    async fn is_seen(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.is_ok_and(|seen| seen.is_ok())
    }

    #[tokio::test]
    async fn every_way_of_writing_is_seen_and_the_one_after_it() {
        for Case { name, prepare, change } in CASES {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            let file = folder.path().join("clb.yaml");
            let mut watch = Watch::new(&file).unwrap();
            assert!(is_seen(&mut watch).await, "{name}, as it is at first");
            change(folder.path());
            assert!(is_seen(&mut watch).await, "{name}");
            assert_eq!(fs::read_to_string(&file).unwrap(), "new", "{name}");
            fs::write(&file, "newer").unwrap();
            assert!(is_seen(&mut watch).await, "{name}, and another change after it");
        }
    }

    /// The time does not pass by itself here: only a change that counts ends the waiting.
    #[tokio::test(start_paused = true)]
    async fn what_is_half_written_or_of_another_file_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clb.yaml");
        plain(folder.path());
        let mut watch = Watch::new(&file).unwrap();
        assert!(is_seen(&mut watch).await, "as it is at first");
        let mut half = fs::File::create(&file).unwrap();
        io::Write::write_all(&mut half, b"half").unwrap();
        write(folder.path(), "other.yaml", "new");
        assert!(!is_seen(&mut watch).await, "in place");
        fs::remove_file(&file).unwrap();
        let again = fs::File::create(&file).unwrap();
        assert!(!is_seen(&mut watch).await, "removed and made anew");
        drop((half, again));
        assert!(is_seen(&mut watch).await);
    }

    #[test]
    fn a_folder_that_is_not_there_cannot_be_watched() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let error = Watch::new(&folder.path().join("no/clb.yaml")).err().unwrap().to_string();
        assert!(error.contains("No such file") && error.contains("help: "), "{error}");
    }
}
