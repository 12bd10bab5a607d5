//! The log on a simulated disk: against a model, through power cuts, damage and full disks.

#[cfg(test)]
mod beginning;
#[cfg(test)]
mod common;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod retention;
