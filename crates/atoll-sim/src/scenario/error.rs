//! Why a scenario cannot be run, in words that say what to change.

use atoll_proto::plan::PlanError;

/// Why a scenario cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// It is no TOML, or a key is unknown or missing.
    #[error("{0}")]
    Malformed(String),
    /// A value that cannot be.
    #[error("{what} is {value}: {why}")]
    Impossible {
        /// Which key.
        what: String,
        /// What it says.
        value: String,
        /// What would be possible.
        why: String,
    },
    /// A name that nothing has.
    #[error("{what} {name:?} is not known{}", hint(nearest))]
    Unknown {
        /// A name of what.
        what: &'static str,
        /// The name.
        name: String,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
    /// More devices than fit.
    #[error(
        "{devices} devices would take about {needed_bytes} bytes of this machine's memory, \
         {allowed_bytes} are allowed"
    )]
    TooMany {
        /// How many devices.
        devices: usize,
        /// What they would take.
        needed_bytes: u64,
        /// What they may take.
        allowed_bytes: u64,
    },
    /// The devices cannot hold the model.
    #[error("no plan: {0}")]
    NoPlan(PlanError),
}

impl ScenarioError {
    /// With the nearest known key, where the parser lists those that it knows.
    pub(super) fn malformed(text: &str) -> Self {
        let mut quoted = text.split('`').skip(1).step_by(2);
        let unknown = text.contains("unknown field") || text.contains("unknown variant");
        let nearest = quoted.next().filter(|_| unknown).and_then(|word| {
            let known: Vec<_> = quoted.map(str::to_owned).collect();
            nearest(word, known.iter())
        });
        Self::Malformed(format!("{}{}", text.trim_end(), hint(&nearest)))
    }

    pub(super) fn impossible(what: &str, value: impl ToString, why: &str) -> Self {
        let (what, value, why) = (what.to_owned(), value.to_string(), why.to_owned());
        Self::Impossible { what, value, why }
    }

    pub(super) fn unknown<'a>(
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> Self {
        Self::Unknown { what, name: name.to_owned(), nearest: nearest(name, known) }
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

/// The word that is most like `word`, if one is like it at all.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    let close = known.map(|known| (distance(word, known), known));
    let close = close.filter(|(distance, known)| *distance * 2 <= known.len().max(2));
    close.min().map(|(_, known)| known.clone())
}

/// Letters to change, add or leave out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted() {
        for (a, b, expected) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected));
        }
        let known = ["latency_ms".to_owned(), "jitter_ms".to_owned()];
        assert_eq!(nearest("latncy_ms", known.iter()).as_deref(), Some("latency_ms"));
        assert_eq!(nearest("colour", known.iter()), None);
    }
}
