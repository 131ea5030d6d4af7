//! alambic turns a large language model into a small one.
//!
//! ```text
//! recipe ─▶ plan ─▶ text ─▶ token rows ─┐
//!                                       ├─▶ cache ─▶ passes ─▶ export ─▶ verify ─▶ report
//!                 teacher checkpoint ───┘
//! ```
//!
//! Modules are declared in the order in which data flows: each uses only those above it
//! (`tests/architecture.rs` checks).

// Leaves: they use nothing of the pipeline.
pub mod allocator;

pub mod panics;

pub mod files;

pub mod machine;

pub mod hashes;

pub mod mapped;

pub mod progress;

pub mod rates;

pub mod diag;

pub mod hub;

pub mod missing;

pub mod device;

pub mod vector;

pub mod random;

pub mod shell;

pub mod tensors;

pub mod difference;

// The language of recipes; each stage declares its keys in its `plan`.
pub mod recipe;

pub mod gguf;

// Data: text and conversations -> token rows.
pub mod chat;

pub mod data;

// Model: one decoder for teacher and student.
pub mod kernels;

pub mod model;

pub mod license;

pub mod formats;

pub mod checkpoint;

pub mod cost;

pub mod vocabulary;

pub mod support;

pub mod loss;

pub mod calibration;

// Teacher -> cache.
pub mod cache;

pub mod teacher;

// Student: weights, training.
pub mod student;

pub mod pruning;

pub mod train;

// Passes: student -> student.
pub mod passes;

// Export -> report.
pub mod export;

pub mod report;

// The program.
pub mod plan;

pub mod kept;

pub mod fetched;

pub mod opened;

pub mod stages;

pub mod estimate;

pub mod preflight;

pub mod memory;

pub mod starter;

pub mod run;

pub mod clean;

pub mod compare;

pub mod convert;

pub mod generate;

pub mod inspect;

pub mod cli;
