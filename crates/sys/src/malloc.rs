//! Settings of glibc's allocator.

/// Holds the allocator to `count` arenas (glibc makes eight a core otherwise, each with memory of its own).
/// To be called before the first thread; false when the allocator would not.
pub fn limit_arenas(count: i32) -> bool {
    // SAFETY: mallopt takes two integers and touches only the allocator's own parameters, under its own lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) == 1 }
}

/// Gives free memory at the top of the heaps back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim takes one integer and works under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Blocks of at least `bytes` always get a mapping of their own, which goes back to the kernel when it is freed. (By default glibc raises
/// the limit when such a block is freed, and the next one stays in the heap.)
pub fn map_large_blocks(bytes: i32) {
    // SAFETY: mallopt takes two integers and touches only the allocator's own parameters, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
    }
}
