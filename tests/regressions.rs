//! Each bug ever found, as its seed or script: one test per bug, named for what went wrong. Seeds of the simulated world
//! live with it (`tests/simulation/`); here is what can be shown without one.
