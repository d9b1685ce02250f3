//! `diffluent verify`.
pub mod align;
pub mod entry;
pub mod lockstep;
pub mod side;
pub mod tally;
