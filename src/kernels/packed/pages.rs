//! Large pages for large buffers: the processor finds 2 MiB where it would look for 512 places, and the system hands them
//! out at once.

/// Buffers of which no whole large page is certain are left alone.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

/// Asks for large pages where they fit whole into a buffer that is about to be written: no memory is taken that would not
/// be anyway. What the system makes of it changes nothing but speed.
pub(super) fn ask_for_large<T>(buffer: *mut T, count: usize) {
    #[cfg(target_os = "linux")]
    {
        let first = (buffer as usize).next_multiple_of(LARGE);
        let end = (buffer as usize + count * size_of::<T>()) / LARGE * LARGE;
        if first < end {
            // SAFETY: advice on pages that lie in the buffer; their content stays.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (buffer, count);
}
