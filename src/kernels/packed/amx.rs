//! A block of a product by Intel's AMX: four tiles of sums, two of activations, two of weights.
//!
//! In assembly, since Rust's intrinsics for it are not stable. The instructions are described in Intel's Software
//! Developer's Manual, volume 1, chapter 18.

use super::tile::{Block, Rows};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use super::{Block, Rows};
    use crate::kernels::packed::tile::{PAIR, WIDTH};
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    /// Asks the system for the registers, once: they are 8 KiB for each thread.
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: this call changes nothing but what the process may use.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    }

    pub(in crate::kernels::packed) fn is_here() -> bool {
        const TILES: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        static HERE: OnceLock<bool> = OnceLock::new();
        *HERE.get_or_init(|| {
            // SAFETY: every x86-64 processor has the instruction. (Safe to call since some Rust after 1.91.)
            #[allow(unsafe_code, unused_unsafe)]
            let ask = |leaf| unsafe { __cpuid_count(leaf, 0) };
            ask(0).eax >= 7 && ask(7).edx & (TILES | BF16) == TILES | BF16 && permitted()
        })
    }

    /// How the registers are divided into tiles.
    #[repr(C, align(64))]
    struct Division {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_of_a_row: [u16; 16],
        rows: [u8; 16],
    }

    const DIVISION: Division = {
        let (mut bytes_of_a_row, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            (bytes_of_a_row[tile], rows[tile]) = (64, WIDTH as u8);
            tile += 1;
        }
        Division { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_a_row, rows }
    };

    /// This thread's registers, divided. Given back when it is dropped, so that the system need not keep them any more.
    pub(in crate::kernels::packed) struct Tiles {
        /// It is of one thread.
        _thread: PhantomData<*const ()>,
    }

    impl Tiles {
        /// # Panics
        ///
        /// Where there is no AMX.
        pub(in crate::kernels::packed) fn new() -> Self {
            assert!(is_here(), "this processor has no AMX");
            // SAFETY: the processor has the instruction, and the operand is the 64 bytes that it reads.
            #[allow(unsafe_code)]
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &DIVISION, options(nostack, readonly, preserves_flags));
            }
            Self { _thread: PhantomData }
        }

        /// See `Ready::multiply`, which has checked that everything lies where it is read.
        pub(in crate::kernels::packed) fn multiply(
            &self,
            rows: Rows<'_>,
            panels: [&[u16]; 2],
            block: &mut Block,
            onto: bool,
        ) {
            if rows.taps.is_empty() || rows.steps == 0 {
                if !onto {
                    *block = Block::zero();
                }
                return;
            }
            let stride = 2 * rows.stride;
            // The next weights are asked for while these are multiplied. Alone on a core that changes little; beside another
            // thread of the same core that uses tiles, too, it was measured to give a third more products.
            // SAFETY: the tiles are divided, since there is `self`. What is read lies in `rows.values` by `Rows::fit` and
            // in the panels by their length, both of which the caller asserts; a block has room for what is stored.
            #[allow(unsafe_code)]
            unsafe {
                asm!(
                    "test {step}, {step}",
                    "jnz 4f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 2f",
                    "4:",
                    "tileloadd tmm0, [{block} + 2*{line}]",
                    "tileloadd tmm1, [{block} + 2*{line} + 64]",
                    "tileloadd tmm2, [{block} + 2*{line} + 2048]",
                    "tileloadd tmm3, [{block} + 2*{line} + 2112]",
                    "2:",
                    "mov {a0}, [{taps}]",
                    "lea {a0}, [{values} + 2*{a0}]",
                    "mov {a1}, {stride}",
                    "shl {a1}, 4",
                    "add {a1}, {a0}",
                    "mov {step}, {steps}",
                    "3:",
                    "tileloadd tmm4, [{b0} + {line}]",
                    "tileloadd tmm6, [{a0} + {stride}]",
                    "prefetcht0 [{b0} + 1024]",
                    "prefetcht0 [{b0} + 1088]",
                    "prefetcht0 [{b0} + 1152]",
                    "prefetcht0 [{b0} + 1216]",
                    "prefetcht0 [{b0} + 1280]",
                    "prefetcht0 [{b0} + 1344]",
                    "prefetcht0 [{b0} + 1408]",
                    "prefetcht0 [{b0} + 1472]",
                    "tdpbf16ps tmm0, tmm6, tmm4",
                    "tileloadd tmm5, [{b1} + {line}]",
                    "prefetcht0 [{b0} + 1536]",
                    "prefetcht0 [{b0} + 1600]",
                    "prefetcht0 [{b0} + 1664]",
                    "prefetcht0 [{b0} + 1728]",
                    "prefetcht0 [{b0} + 1792]",
                    "prefetcht0 [{b0} + 1856]",
                    "prefetcht0 [{b0} + 1920]",
                    "prefetcht0 [{b0} + 1984]",
                    "tdpbf16ps tmm1, tmm6, tmm5",
                    "tileloadd tmm7, [{a1} + {stride}]",
                    "prefetcht0 [{b1} + 1024]",
                    "prefetcht0 [{b1} + 1088]",
                    "prefetcht0 [{b1} + 1152]",
                    "prefetcht0 [{b1} + 1216]",
                    "prefetcht0 [{b1} + 1280]",
                    "prefetcht0 [{b1} + 1344]",
                    "prefetcht0 [{b1} + 1408]",
                    "prefetcht0 [{b1} + 1472]",
                    "tdpbf16ps tmm2, tmm7, tmm4",
                    "prefetcht0 [{b1} + 1536]",
                    "prefetcht0 [{b1} + 1600]",
                    "prefetcht0 [{b1} + 1664]",
                    "prefetcht0 [{b1} + 1728]",
                    "prefetcht0 [{b1} + 1792]",
                    "prefetcht0 [{b1} + 1856]",
                    "prefetcht0 [{b1} + 1920]",
                    "prefetcht0 [{b1} + 1984]",
                    "tdpbf16ps tmm3, tmm7, tmm5",
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {step}",
                    "jnz 3b",
                    "add {taps}, 8",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{block} + 2*{line}], tmm0",
                    "tilestored [{block} + 2*{line} + 64], tmm1",
                    "tilestored [{block} + 2*{line} + 2048], tmm2",
                    "tilestored [{block} + 2*{line} + 2112], tmm3",
                    values = in(reg) rows.values.as_ptr(),
                    stride = in(reg) stride,
                    taps = inout(reg) rows.taps.as_ptr() => _,
                    count = inout(reg) rows.taps.len() => _,
                    steps = in(reg) rows.steps,
                    b0 = inout(reg) panels[0].as_ptr() => _,
                    b1 = inout(reg) panels[1].as_ptr() => _,
                    block = in(reg) block,
                    line = in(reg) 64usize,
                    a0 = out(reg) _,
                    a1 = out(reg) _,
                    // At first it says whether to begin with what is in the block.
                    step = inout(reg) usize::from(onto) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    impl Tiles {
        /// `blocks = rows * panels^T`, for rows of one tap and two steps, which stay in four tiles while all panels go by:
        /// half of the loads. Panels lie one after the other.
        pub(in crate::kernels::packed) fn multiply_many(&self, rows: Rows<'_>, panels: &[u16], blocks: &mut [Block]) {
            assert!(rows.taps == [0] && rows.steps == 2 && rows.fit(), "these are no rows of two steps");
            assert!(panels.len() >= blocks.len() * 2 * rows.panel(), "there are too few panels");
            if blocks.is_empty() {
                return;
            }
            let stride = 2 * rows.stride;
            // SAFETY: as in `multiply`; each panel is 2 KiB, and each half of a block takes one.
            #[allow(unsafe_code)]
            unsafe {
                asm!(
                    "tileloadd tmm4, [{a0} + {stride}]",
                    "tileloadd tmm5, [{a0} + {stride} + 64]",
                    "tileloadd tmm6, [{a1} + {stride}]",
                    "tileloadd tmm7, [{a1} + {stride} + 64]",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tileloadd tmm2, [{b} + {line}]",
                    "tileloadd tmm3, [{b} + {line} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm2",
                    "tdpbf16ps tmm1, tmm6, tmm2",
                    "tdpbf16ps tmm0, tmm5, tmm3",
                    "tdpbf16ps tmm1, tmm7, tmm3",
                    "tilestored [{block} + 2*{line}], tmm0",
                    "tilestored [{block} + 2*{line} + 2048], tmm1",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tileloadd tmm2, [{b} + {line} + 2048]",
                    "tileloadd tmm3, [{b} + {line} + 3072]",
                    "tdpbf16ps tmm0, tmm4, tmm2",
                    "tdpbf16ps tmm1, tmm6, tmm2",
                    "tdpbf16ps tmm0, tmm5, tmm3",
                    "tdpbf16ps tmm1, tmm7, tmm3",
                    "tilestored [{block} + 2*{line} + 64], tmm0",
                    "tilestored [{block} + 2*{line} + 2112], tmm1",
                    "add {b}, 4096",
                    "add {block}, 4096",
                    "dec {count}",
                    "jnz 2b",
                    a0 = in(reg) rows.values.as_ptr(),
                    a1 = in(reg) rows.values.as_ptr().wrapping_add(WIDTH * rows.stride),
                    stride = in(reg) stride,
                    line = in(reg) 64usize,
                    b = inout(reg) panels.as_ptr() => _,
                    block = inout(reg) blocks.as_mut_ptr() => _,
                    count = inout(reg) blocks.len() => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the tiles hold nothing that is still wanted.
            #[allow(unsafe_code)]
            unsafe {
                asm!("tilerelease", options(nomem, nostack, preserves_flags));
            }
        }
    }

    // The strides above are those of a block.
    const _: () = assert!(size_of::<Block>() == 4096 && PAIR == 32 && size_of::<Division>() == 64);
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use x86::{Tiles, is_here};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod elsewhere {
    use super::{Block, Rows};

    pub(in crate::kernels::packed) fn is_here() -> bool {
        false
    }

    /// There are none.
    pub(in crate::kernels::packed) enum Tiles {}

    impl Tiles {
        pub(in crate::kernels::packed) fn new() -> Self {
            unreachable!("there is no AMX here")
        }

        pub(in crate::kernels::packed) fn multiply(&self, _: Rows<'_>, _: [&[u16]; 2], _: &mut Block, _: bool) {
            match *self {}
        }

        pub(in crate::kernels::packed) fn multiply_many(&self, _: Rows<'_>, _: &[u16], _: &mut [Block]) {
            match *self {}
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use elsewhere::{Tiles, is_here};
