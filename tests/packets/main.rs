//! Packets through the real program, compared as a whole: what comes out, the verdict, and what was counted.

mod build;
mod cases;
mod differential;
mod generate;
mod harness;
mod icmp;
mod inspect;
mod layout;
mod model;
mod modes;
mod passed;
mod refused;
mod rows;
mod selection;
mod switching;
mod tracking;
