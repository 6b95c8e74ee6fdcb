//! mount_setattr(2): the one call of the mount interface that rustix has not.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// What [`set_attributes`] changes. Bits are `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE`, `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes flags or propagation of the mount at `path` relative to `directory` (empty: of the mount itself), and with `recursive`
/// of all mounts below.
///
/// # Errors
/// As mount_setattr(2); `ENOSYS` before Linux 5.12.
pub fn set_attributes(
    directory: BorrowedFd<'_>,
    path: &str,
    recursive: bool,
    attributes: &Attributes,
) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let path = CString::new(path)?;
    let attr = MountAttr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: path is a C string and attr a whole mount_attr of the size told; the kernel only reads them.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
