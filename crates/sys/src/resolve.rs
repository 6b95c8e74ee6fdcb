//! Opening paths below a directory, never outside of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
    path::Arg,
};

/// While anything on the machine is mounted or renamed again and again, so often is asked anew.
const TRIES: usize = 10_000;

/// openat2(2) for opening what exists. `..` below a root makes the kernel give up with EAGAIN whenever something anywhere on
/// the machine is mounted or renamed in that moment; the manual says to try again.
///
/// # Errors
/// As openat2; EAGAIN only after many tries.
pub fn open(
    root: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let root = root.as_fd();
    path.into_with_c_str(|path| {
        for _ in 0..TRIES {
            match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Renames elsewhere do not disturb; without the repetition this fails within milliseconds.
    #[test]
    fn renames_elsewhere() {
        let folder = std::env::temp_dir().join(format!("longshore-resolve-{}", std::process::id()));
        let deep = folder.join("a/b");
        std::fs::create_dir_all(&deep).expect("mkdir");
        let (over, dir) = (
            AtomicBool::new(false),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        );
        let root = rustix::fs::open(&folder, dir, Mode::empty()).expect("open");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = std::fs::rename(folder.join("x"), folder.join("y"));
                    let _ = std::fs::create_dir(folder.join("x"));
                    let _ = std::fs::rename(folder.join("x"), folder.join("y"));
                    let _ = std::fs::remove_dir(folder.join("y"));
                }
            });
            let failed: Vec<_> = (0..20_000)
                .filter_map(|_| open(&root, "a/b/../../a/b/..", dir, ResolveFlags::IN_ROOT).err())
                .collect();
            over.store(true, Ordering::Relaxed);
            assert_eq!(failed, []);
        });
        std::fs::remove_dir_all(&folder).expect("rm");
    }
}
