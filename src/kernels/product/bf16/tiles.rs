//! Sums of tiles, as the instruction `tdpbf16ps` of AMX computes them, and the same in plain code.
//!
//! 32 inner numbers at a time, the products of first and of second numbers of the pairs are summed apart, each fused and
//! rounded once to the nearest; the two sums are added, and their sum to the result. Subnormal numbers, read or made, are
//! zeros of their sign (Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS).

use super::pairs::{columns_of, flushed, wide};
use super::{Block, PANEL, Target};
use crate::vector::vectorized;

/// Inner numbers that are summed apart before they are added: a row of a tile.
pub(super) const DEPTH: usize = 32;

/// Rows of the result that are computed at once: two tiles, by two for the columns.
pub(super) const ROWS: usize = 32;

/// True if processor and system have the instruction; the first call asks the system for the registers.
pub(super) fn is_there() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        amx::processor_has_it() && amx::system_permits_it()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

/// The tile registers of this thread, configured as 8 tiles of 16 rows of 64 bytes until it is dropped.
pub(super) struct Configured(());

impl Configured {
    /// # Panics
    ///
    /// Where there are no such registers: [`is_there`] tells.
    pub(super) fn new() -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        amx::configure();
        Self(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        amx::release();
    }
}

/// Computes a block with the instruction.
///
/// # Safety
///
/// The processor has the instruction, the thread's tiles are [`Configured`], and the target's place belongs to the caller.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction is not on every processor")]
pub(super) unsafe fn multiply(block: Block<'_>, target: Target) {
    assert!(
        ROWS * block.depth <= block.left.len(),
        "rows are padded to whole tiles"
    );
    assert!(block.depth * PANEL <= block.right.len() && block.depth.is_multiple_of(DEPTH));
    // SAFETY: the caller has the target's place.
    unsafe {
        target.plainly(block, |block, sums| {
            let mut all = [[0.0; PANEL]; ROWS];
            all[..sums.len()].copy_from_slice(sums);
            #[cfg(target_os = "linux")]
            amx::add_block(block, &mut all);
            sums.copy_from_slice(&all[..sums.len()]);
        });
    }
}

/// Adds a block to `sums` in plain code.
pub(super) fn multiply_plainly(block: Block<'_>, sums: &mut [[f32; PANEL]]) {
    vectorized(
        #[inline(always)]
        || {
            let (rights, _) = block.right.as_chunks::<{ 2 * PANEL }>();
            let (rights, _) = rights.as_chunks::<{ DEPTH / 2 }>();
            for (part, rights) in rights.iter().take(block.depth / DEPTH).enumerate() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let place = row * block.depth + part * DEPTH;
                    let left = &block.left[place..place + DEPTH];
                    let mut apart = [[0.0; PANEL]; 2];
                    for (left, rights) in left.as_chunks::<2>().0.iter().zip(rights) {
                        let rights = columns_of(rights);
                        for half in 0..2 {
                            let left = wide(left[half]);
                            for (sum, right) in apart[half].iter_mut().zip(&rights[half]) {
                                *sum = flushed(left.mul_add(*right, *sum));
                            }
                        }
                    }
                    for (column, sum) in sums.iter_mut().enumerate() {
                        let both = flushed(apart[0][column] + apart[1][column]);
                        *sum = flushed(flushed(*sum) + both);
                    }
                }
            }
        },
    );
}

/// The registers and instructions of AMX, which the compiler knows by name alone.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(
    unsafe_code,
    reason = "instructions that the compiler has no functions for"
)]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    use super::{Block, DEPTH, PANEL, ROWS};

    /// Bits of `cpuid` leaf 7, EDX: products of bf16, and tiles.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Bit of `cpuid` leaf 1, ECX: the system manages extended registers.
    const OSXSAVE: u32 = 1 << 27;
    /// Bits of XCR0: configuration and data of tiles are saved by the system.
    const TILE_STATES: u64 = 1 << 17 | 1 << 18;

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    pub(super) fn processor_has_it() -> bool {
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        // SAFETY: OSXSAVE says that the register can be read.
        let saved = || unsafe { saved_states() };
        features & AMX_BF16 != 0 && features & AMX_TILE != 0 && saved() & TILE_STATES == TILE_STATES
    }

    /// # Safety
    ///
    /// The processor has the instruction.
    #[target_feature(enable = "xsave")]
    unsafe fn saved_states() -> u64 {
        // SAFETY: as above.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux for the tile registers of this process: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
    pub(super) fn system_permits_it() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and changes nothing but the permission.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        };
        failed == 0
    }

    pub(super) fn configure() {
        let mut config = TileConfig {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: it reads the 64 bytes of the configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        }
    }

    pub(super) fn release() {
        // SAFETY: it empties the tiles, which nobody reads any more.
        unsafe {
            asm!("tilerelease", options(nomem, nostack, preserves_flags));
        }
    }

    /// Adds the products of a block to `sums`.
    ///
    /// # Safety
    ///
    /// The thread's tiles are configured; the block has [`ROWS`] rows of whole tiles, and its panel as many numbers.
    pub(super) unsafe fn add_block(block: Block<'_>, sums: &mut [[f32; PANEL]; ROWS]) {
        let left = block.left.as_ptr();
        // SAFETY: tiles of 16 rows: two below each other of `left`, two beside each other of the panel, four of `sums`; the
        // pointers advance by a tile until `depth` is reached.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {panel_step}]",
                "tileloadd tmm1, [{sums} + {panel_step} + 64]",
                "tileloadd tmm2, [{lower_sums} + {panel_step}]",
                "tileloadd tmm3, [{lower_sums} + {panel_step} + 64]",
                "2:",
                "tileloadd tmm4, [{left} + {left_step}]",
                "tileloadd tmm6, [{right} + {panel_step}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {panel_step} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {left_step}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 64",
                "add {lower}, 64",
                "add {right}, 2048",
                "dec {parts}",
                "jnz 2b",
                "tilestored [{sums} + {panel_step}], tmm0",
                "tilestored [{sums} + {panel_step} + 64], tmm1",
                "tilestored [{lower_sums} + {panel_step}], tmm2",
                "tilestored [{lower_sums} + {panel_step} + 64], tmm3",
                left = inout(reg) left => _,
                lower = inout(reg) left.add(16 * block.depth) => _,
                right = inout(reg) block.right.as_ptr() => _,
                parts = inout(reg) block.depth / DEPTH => _,
                sums = in(reg) sums.as_mut_ptr(),
                lower_sums = in(reg) sums[16..].as_mut_ptr(),
                left_step = in(reg) 2 * block.depth,
                panel_step = in(reg) 4 * PANEL,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
