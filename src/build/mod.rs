//! The Dockerfile language: text to instructions, words to values, patterns to matches. No I/O.
//!
//! * [`source`]: the file's text, and errors that show the line they mean.
//! * [`lex`]: directives, comments, continuations, here-documents: one [`lex::Line`] an instruction.
//! * [`instruction`]: what each line says.
//! * [`expand`]: `$name` in all its forms, and quotes.
//! * [`stage`]: instructions to stages, and which of them a target needs.
//! * [`lint`]: what is legal, and likely a mistake.
//! * [`pattern`]: Go's globs, and `.dockerignore`.
//! * `suggest`: what a word that nobody knows was likely meant to be.
//!
//! The language is that of BuildKit's Dockerfile frontend (docs.docker.com, "Dockerfile reference").

pub mod expand;
pub mod instruction;
pub mod lex;
pub mod lint;
pub mod pattern;
pub mod source;
pub mod stage;
mod suggest;

pub use instruction::{
    CdiDevice, Command, Copy, HealthTest, Healthcheck, Instruction, Kind, Mount, MountKind, Run,
};
pub use lex::Heredoc;
pub use pattern::Ignore;
pub use source::Source;
pub use stage::{Base, Dockerfile, Stage};
