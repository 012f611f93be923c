//! The program's allocator: mimalloc, which is told when to give memory back, with large pages for large buffers.
//!
//! Networks allocate and free the same large buffers at every step. The system's allocator gives them back to the kernel
//! each time and pays for fresh pages; mimalloc keeps them. Its own use of large pages is switched off (`no_thp`): it asks for
//! them everywhere, and what lies free beside a part that is used is then taken, too, which with the weights of Stable
//! Diffusion was 7 % more memory than there are weights.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

/// How long freed memory is kept before the kernel gets it back, in milliseconds. The default of 10 is less than a step
/// takes; training, whose every step wants the same again, gives nothing back (-1), which makes it a fifth faster.
const PURGE_DELAY: std::ffi::c_long = 1000;
const PURGE_DELAY_IN_TRAINING: std::ffi::c_long = -1;

/// The number of `mi_option_purge_delay` in mimalloc.h, which the bindings leave out.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

/// A large page: the processor finds it in one step where it would take 512, and the system hands it out at once.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

/// See the module's description.
pub(crate) struct Allocator;

// SAFETY: what mimalloc does; advice changes nothing about the memory but how the kernel keeps it.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let place = unsafe { MiMalloc.alloc(layout) };
        ask_for_large(place, layout.size());
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let place = unsafe { MiMalloc.alloc_zeroed(layout) };
        ask_for_large(place, layout.size());
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { MiMalloc.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        let place = unsafe { MiMalloc.realloc(place, layout, size) };
        ask_for_large(place, size);
        place
    }
}

/// Asks for large pages where a buffer takes at least half of one: those are used up, or nearly.
#[inline]
fn ask_for_large(place: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= LARGE / 2 && !place.is_null() {
        let half = |address: usize| (address + LARGE / 2) / LARGE * LARGE;
        let (first, end) = (half(place as usize), half(place as usize + size));
        if first < end {
            // SAFETY: advice. At the ends it is on pages of which others have a part; their content stays as well.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (place, size);
}

/// Says how long freed memory is kept.
pub(crate) fn set_delay(training: bool) {
    let delay = if training { PURGE_DELAY_IN_TRAINING } else { PURGE_DELAY };
    // SAFETY: sets an integer that the allocator reads; any value is allowed.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, delay);
    }
}

/// Gives back to the kernel what is free: at once, and not when the delay is over and something else is freed. Each
/// thread keeps what it has freed, so each is asked.
pub(crate) fn give_back() {
    // SAFETY: collects what is free already; may be called at any time, by any thread.
    #[allow(unsafe_code)]
    let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
    rayon::broadcast(|_| collect());
    collect();
}
