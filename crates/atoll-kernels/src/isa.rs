//! Which instruction set computes.

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, on every machine.
    Generic,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
    /// That and VBMI.
    Avx512Vbmi,
    /// 64-bit ARM with NEON.
    Neon,
    /// 64-bit ARM with NEON and its dot products of bytes (`sdot`).
    NeonDot,
}

impl Isa {
    /// Every instruction set; of one architecture, plain Rust first and the fastest last.
    pub const ALL: [Self; 6] =
        [Self::Generic, Self::Avx2, Self::Avx512Vnni, Self::Avx512Vbmi, Self::Neon, Self::NeonDot];

    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        // Of one architecture, each is faster than those before it.
        Self::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Self::Generic)
    }

    /// The one called `generic`, `avx2`, `avx512`, `avx512-vbmi`, `neon` or `neon-dot`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Its name, as [`Self::parse`] reads it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512",
            Self::Avx512Vbmi => "avx512-vbmi",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dot",
        }
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        crate::arch::table_of(self).is_some()
    }
}
