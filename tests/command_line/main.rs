//! The command line as a user sees it: whole transcripts, with the exit status. No privileges, no network.
//!
//! What must stay true in all of them: data goes to standard output, talk to standard error; 0 is good, 1 a problem in what
//! was given, 2 a command that could not run; and no escape codes where no terminal is.

mod apply;
mod binary;
mod check;
mod generate;
mod output;
mod readme;
mod status;
mod transcript;
mod usage;
