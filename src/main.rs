//! The `limner` binary: one library call per subcommand.

/// Networks allocate and free the same large buffers at every step. The system's allocator gives them back to the kernel
/// each time and pays for fresh pages; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept for the next step before the kernel gets it back, in milliseconds. The default of 10 is
/// less than a step of training takes; a second makes it a quarter faster.
const PURGE_DELAY: std::ffi::c_long = 1000;

/// The number of `mi_option_purge_delay` in mimalloc.h, which the bindings leave out.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

fn main() -> std::process::ExitCode {
    // SAFETY: sets an integer that the allocator reads; any value is allowed.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, PURGE_DELAY);
    }
    limner::cli::main()
}
