//! The `limner` binary: one library call per subcommand.

/// Networks allocate and free the same large buffers at every step. The system's allocator gives them back to the kernel
/// each time and pays for fresh pages; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept before the kernel gets it back, in milliseconds. The default of 10 is less than a step
/// takes; training, whose every step wants the same again, gives nothing back (-1), which makes it a fifth faster.
const PURGE_DELAY: std::ffi::c_long = 1000;
const PURGE_DELAY_IN_TRAINING: std::ffi::c_long = -1;

/// The number of `mi_option_purge_delay` in mimalloc.h, which the bindings leave out.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

fn main() -> std::process::ExitCode {
    let training = std::env::args_os().nth(1).is_some_and(|command| command == "train");
    let delay = if training { PURGE_DELAY_IN_TRAINING } else { PURGE_DELAY };
    // SAFETY: sets an integer that the allocator reads; any value is allowed.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, delay);
    }
    if !training && !limner::kernels::Isa::best().gains() {
        without_huge_pages();
    }
    limner::cli::main(give_back)
}

/// Pages of 2 MiB are taken whole where a part of one is used: with a model of hundreds of large tensors that is some
/// hundredths more memory than there are weights, for about a twentieth less time in products. Training keeps them, and so
/// do products in bf16, which ask for them.
fn without_huge_pages() {
    // SAFETY: sets a flag of this process; what it does not know, the kernel refuses.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Gives back to the kernel what is free: at once, and not when the delay is over and something else is freed. Each
/// thread keeps what it has freed, so each is asked.
fn give_back() {
    // SAFETY: collects what is free already; may be called at any time, by any thread.
    #[allow(unsafe_code)]
    let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
    rayon::broadcast(|_| collect());
    collect();
}
