//! Memory and panics of a contract: an instance lives for one call, so nothing is ever freed.
//!
//! The arena takes memory from the end of the module's and grows it by pages; the host bounds it. A
//! panic ends the call; the transaction then has no writes.

use core::alloc::GlobalAlloc;
use core::alloc::Layout;
use core::cell::Cell;

const PAGE_BYTES: usize = 64 * 1024;

struct Arena {
    next: Cell<usize>,
    end: Cell<usize>,
}

// SAFETY: a contract has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { next: Cell::new(0), end: Cell::new(0) };

unsafe extern "C" {
    /// First byte behind the module's data and stack, set by the linker.
    static __heap_base: u8;
}

// SAFETY: each block is handed out once, aligned, within memory that exists.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.end.get() == 0 {
            self.next.set(&raw const __heap_base as usize);
            self.end.set(core::arch::wasm32::memory_size(0) * PAGE_BYTES);
        }
        let start = self.next.get().next_multiple_of(layout.align());
        let Some(next) = start.checked_add(layout.size()) else {
            return core::ptr::null_mut();
        };
        if next > self.end.get() {
            let pages = (next - self.end.get()).div_ceil(PAGE_BYTES);
            if core::arch::wasm32::memory_grow(0, pages) == usize::MAX {
                return core::ptr::null_mut();
            }
            self.end.set(self.end.get() + pages * PAGE_BYTES);
        }
        self.next.set(next);
        start as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The last block grows where it stands: a buffer that is written to the end costs no
        // copies.
        let is_last = old as usize + layout.size() == self.next.get();
        if is_last && old as usize + size <= self.end.get() {
            self.next.set(old as usize + size);
            return old;
        }
        // SAFETY: the caller's promises, passed on; the blocks are apart.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(old, new, layout.size().min(size));
            }
            new
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
