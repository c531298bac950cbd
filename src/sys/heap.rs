//! The heap of a release, which is built for musl: one that grows, and the kernel's pages for what
//! is large.
//!
//! musl's own allocator touches a page for each size, which is half of what a short command
//! touches at all.

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

use dlmalloc::GlobalDlmalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// From here on memory comes from the kernel and goes back to it (`mmap(2)`): zeroed, and taken only
/// as it is touched, which buffers for what may come rely on.
const LARGE: usize = 128 << 10;
const PAGE: usize = 4096;

/// What Rust allocates from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

fn is_large(size: usize, align: usize) -> bool {
    size >= LARGE && align <= PAGE
}

fn take(size: usize) -> *mut u8 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: new pages wherever the kernel likes; nobody has them yet.
    let pages = unsafe { mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE) };
    pages.map_or(std::ptr::null_mut(), <*mut _>::cast)
}

// SAFETY: memory is given out by the kernel or by dlmalloc, neither of which gives the same twice;
// which of them is told by the size and alignment that the caller must repeat. None of them unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return take(layout.size());
        }
        // SAFETY: the caller's layout.
        unsafe { GlobalDlmalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return take(layout.size());
        }
        // SAFETY: the caller's layout.
        unsafe { GlobalDlmalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_large(layout.size(), layout.align()) {
            // SAFETY: by its size it came from `take`, and nobody uses it any more.
            let _ = unsafe { munmap(memory.cast(), layout.size()) };
            return;
        }
        // SAFETY: by its size it came from dlmalloc, with this layout.
        unsafe { GlobalDlmalloc.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, align) = (layout.size(), layout.align());
        match (is_large(old, align), is_large(size, align)) {
            (false, false) => {
                // SAFETY: by its size it came from dlmalloc, with this layout.
                unsafe { GlobalDlmalloc.realloc(memory, layout, size) }
            }
            (true, true) => {
                // SAFETY: by its size it came from `take`; the old place is not used again unless
                // this fails and leaves it as it was.
                let pages = unsafe { mremap(memory.cast(), old, size, MremapFlags::MAYMOVE) };
                pages.map_or(std::ptr::null_mut(), <*mut _>::cast)
            }
            _ => {
                // SAFETY: an alignment that was one before, and a size that the caller vouches for.
                let wanted = unsafe { Layout::from_size_align_unchecked(size, align) };
                // SAFETY: a layout like the caller's.
                let Some(new) = NonNull::new(unsafe { self.alloc(wanted) }) else {
                    return std::ptr::null_mut();
                };
                // SAFETY: both are at least this long, and one of them is new.
                unsafe { memory.copy_to_nonoverlapping(new.as_ptr(), old.min(size)) };
                // SAFETY: the caller's, who has the new one instead.
                unsafe { self.dealloc(memory, layout) };
                new.as_ptr()
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder of 251")]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_and_go_across_the_border() {
        for (from, to) in
            [(16, 64), (64, LARGE), (LARGE, 3 * LARGE), (3 * LARGE, LARGE + 1), (LARGE, 10)]
        {
            let layout = Layout::from_size_align(from, 16).expect("a layout");
            // SAFETY: of a size.
            let memory = unsafe { Heap.alloc_zeroed(layout) };
            assert!(!memory.is_null());
            for at in 0..from {
                // SAFETY: within it.
                let byte = unsafe { memory.add(at) };
                // SAFETY: within it, and zeroed.
                assert_eq!(unsafe { byte.read() }, 0);
                // SAFETY: within it.
                unsafe { byte.write((at % 251) as u8) };
            }
            // SAFETY: with its layout.
            let memory = unsafe { Heap.realloc(memory, layout, to) };
            for at in 0..from.min(to) {
                // SAFETY: within it.
                let byte = unsafe { memory.add(at) };
                // SAFETY: within both, and written above.
                assert_eq!(unsafe { byte.read() }, (at % 251) as u8, "{from} to {to}");
            }
            let layout = Layout::from_size_align(to, 16).expect("a layout");
            // SAFETY: with its layout.
            unsafe { Heap.dealloc(memory, layout) };
        }
    }
}
