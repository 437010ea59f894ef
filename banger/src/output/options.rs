//! The options of every command: what is printed, and whether somebody may be asked.

use clap::{Args, ValueEnum};

/// Options of every command.
#[derive(Debug, Default, Args)]
pub struct Global {
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more about what is done
    #[arg(short, long, global = true, overrides_with = "verbose")]
    pub verbose: bool,
    /// Whether to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Answer as JSON, errors included
    #[arg(long, global = true)]
    pub json: bool,
    /// Never ask: what would have to be answered is an error
    #[arg(long, global = true)]
    pub no_input: bool,
}

/// When to use colour; `auto` is on a terminal, unless NO_COLOR is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would print them as a help of many lines")]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}
