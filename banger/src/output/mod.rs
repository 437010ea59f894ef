//! All that people and programs read of banger. [`ui`] prints it, as the [`options`] of every
//! command want it; [`command_output`] is the contract of what commands return; [`table`] and
//! [`units`] lay it out; `suggest` finds what a mistyped name may have meant; `confinement` has
//! the words for how a VMM is confined. A [`report`] is a run's account for programs, and [`panic`]
//! what is printed of a defect.

pub mod command_output;
pub(crate) mod confinement;
pub mod options;
pub mod panic;
pub mod report;
pub(crate) mod suggest;
pub mod table;
pub mod ui;
pub mod units;
