//! Lists for people: a line of headings and a line for each thing, or all that is known of one.

/// Lays out cells in columns, each as wide as its widest cell; the last is not padded.
pub fn table<const N: usize>(headings: [&str; N], lines: impl IntoIterator<Item = [String; N]>) -> String {
    let lines: Vec<_> = std::iter::once(headings.map(str::to_owned)).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            match column + 1 == N {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push('\n');
    }
    text
}

/// Lays out what is known of one thing: a line for each fact, its name before it. Foreign text in a
/// fact is made printable.
pub fn facts<'a>(facts: impl IntoIterator<Item = &'a (&'a str, String)>) -> String {
    let facts: Vec<_> = facts.into_iter().collect();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(10);
    let line = |(name, fact): &&(&str, String)| format!("{name:<width$}  {}\n", banger_vmm::printable(fact.as_bytes()));
    facts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_widest_cell() {
        let lines = [["a", "longer", "x"], ["längst", "b", "y z"]].map(|line| line.map(str::to_owned));
        assert_eq!(table(["N", "W", "L"], lines), "N       W       L\na       longer  x\nlängst  b       y z\n");
    }
}
