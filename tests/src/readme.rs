//! The documentation's examples, to be run.

use std::fs;
use std::path::Path;

/// A command of an example, and what the page shows of its output: a line `…` stands for any lines,
/// `…` in a word for anything, a number for any number.
#[derive(Debug, PartialEq, Eq)]
pub struct Example {
    /// For a shell.
    pub command: String,
    /// Lines.
    pub output: Vec<String>,
}

/// The examples of a section of a page, such as `README.md`: what follows `$ ` in its blocks of
/// `console`.
///
/// # Panics
/// If there is no such section, or nothing to run in it.
#[track_caller]
pub fn examples(page: &str, section: &str) -> Vec<Example> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)).expect("a page");
    let start = page.split_once(&format!("\n## {section}\n")).expect("the section is there").1;
    let section = start.split("\n## ").next().unwrap_or_default();
    let mut examples: Vec<Example> = Vec::new();
    for block in section.split("```console\n").skip(1).filter_map(|block| block.split("```").next()) {
        for line in block.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push(Example { command: command.to_owned(), output: Vec::new() }),
                (None, Some(example)) => example.output.push(line.to_owned()),
                (None, None) => panic!("output without a command: {line}"),
            }
        }
    }
    assert!(!examples.is_empty(), "nothing to run in `{section}`");
    examples
}

impl Example {
    /// Checks that a command's output is what the page shows.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_shown(&self, output: &str) {
        let mut lines = output.lines().filter(|line| !line.is_empty());
        let mut anything = false;
        for shown in &self.output {
            if shown == "…" {
                anything = true;
                continue;
            }
            let found = if anything {
                lines.any(|line| is_like(shown, line))
            } else {
                lines.next().is_some_and(|line| is_like(shown, line))
            };
            assert!(found, "`{}`: the line `{shown}` is not where it should be in:\n{output}", self.command);
            anything = false;
        }
        assert!(anything || lines.next().is_none(), "`{}` prints more than is shown:\n{output}", self.command);
    }
}

/// Whether the words are the same; a number is like any other, and `…` like anything.
fn is_like(shown: &str, line: &str) -> bool {
    let is_number = |word: &str| word.parse::<f64>().is_ok();
    let (shown, line): (Vec<_>, Vec<_>) = (shown.split_whitespace().collect(), line.split_whitespace().collect());
    shown.len() == line.len()
        && shown.iter().zip(&line).all(|(shown, word)| {
            let is_any =
                shown.split_once('…').is_some_and(|(start, end)| word.starts_with(start) && word.ends_with(end));
            shown == word || is_any || (is_number(shown) && is_number(word))
        })
}
