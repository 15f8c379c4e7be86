//! Packets through the real program, compared as a whole: what comes out, the verdict, and what was counted.

mod accounting;
mod build;
mod cases;
mod harness;
mod selection;
