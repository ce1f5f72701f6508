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
}

impl Isa {
    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        [Self::Avx512Vnni, Self::Avx2]
            .into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Generic)
    }

    /// The one called `generic`, `avx2` or `avx512`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Generic, Self::Avx2, Self::Avx512Vnni].into_iter().find(|isa| isa.name() == name)
    }

    /// Its name, as [`Self::parse`] reads it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512",
        }
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Generic => true,
            Self::Avx2 => crate::arch::has_avx2(),
            Self::Avx512Vnni => crate::arch::has_avx2() && crate::arch::has_avx512_vnni(),
        }
    }
}
