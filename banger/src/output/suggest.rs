//! What may have been meant by a name that does not exist.

/// The known name that is nearest, if one is near: no more than a third of its letters away, as
/// rustc has it. Of a name of two letters, one that differs is half of it: only their order may be
/// mistaken.
pub(crate) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let letters = |name: &str| {
        let mut letters: Vec<_> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    let limit = name.chars().count().max(3) / 3;
    let is_near = |known: &String| name.chars().count() > 2 || letters(name) == letters(known);
    let distances = known.filter(is_near).map(|known| (strsim::osa_distance(name, &known), known));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_suggested() {
        let nearest = |name| nearest(name, ["status", "stop", "rm", "delete"].map(str::to_owned).into_iter());
        assert_eq!(nearest("stats").as_deref(), Some("status"));
        assert_eq!(nearest("sotp").as_deref(), Some("stop"));
        assert_eq!(nearest("mr").as_deref(), Some("rm"));
        assert_eq!(nearest("make"), None);
        assert_eq!(nearest("rn"), None);
    }
}
