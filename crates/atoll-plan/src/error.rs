//! Why there is no plan.

use crate::fleet::NODES_MAX;

/// Why there is no plan, with the figures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A fleet of nobody.
    #[error("the fleet has no nodes")]
    NoNodes,
    /// More than can be planned for.
    #[error("{nodes} nodes, at most {NODES_MAX} can be planned for")]
    TooManyNodes {
        /// So many.
        nodes: usize,
    },
    /// Two nodes of one name.
    #[error("two nodes are called {name}")]
    DuplicateName {
        /// Which name.
        name: String,
    },
    /// A name that no node has.
    #[error("no node is called {name}")]
    UnknownNode {
        /// Which name.
        name: String,
    },
    /// A name that no node gives as its zone.
    #[error("no node is in a zone called {name}")]
    UnknownZone {
        /// Which name.
        name: String,
    },
    /// A link that ends where it begins.
    #[error("{name} has a link to itself")]
    SelfLink {
        /// Which node.
        name: String,
    },
    /// A figure that nothing has.
    #[error("{what} is {value}")]
    Absurd {
        /// Of what.
        what: String,
        /// The figure.
        value: String,
    },
    /// A pin on layers that are not there.
    #[error("layers {layers} are pinned, the model has {n_layers}")]
    PinnedLayers {
        /// Which layers.
        layers: String,
        /// How many there are.
        n_layers: usize,
    },
    /// A pin to a node that is not to be used.
    #[error("layers {layers} are pinned to {node}, which is not to be used")]
    PinExcluded {
        /// Which layers.
        layers: String,
        /// Which node.
        node: String,
    },
    /// Two pins that cannot both hold.
    #[error("layers {layers} are pinned to both {} and {}", nodes[0], nodes[1])]
    PinsConflict {
        /// Those of the later pin.
        layers: String,
        /// Both nodes.
        nodes: [String; 2],
    },
    /// The owner cannot even hold embedding and head.
    #[error("embedding and head need {needed_bytes} bytes, {node} has {memory_bytes}")]
    OwnerTooSmall {
        /// The owner.
        node: String,
        /// For embedding and head.
        needed_bytes: u64,
        /// Free there.
        memory_bytes: u64,
    },
    /// All nodes together hold too little, even of the smallest variants that may be used.
    #[error("the model needs {needed_bytes} bytes, the nodes that can be used have {memory_bytes}")]
    NoRoom {
        /// Layers and KV caches.
        needed_bytes: u64,
        /// On all nodes together.
        memory_bytes: u64,
    },
    /// Memory is enough in sum, but no order of nodes holds every layer.
    #[error("no order of linked nodes holds every layer, though their memory is enough in sum")]
    NoOrder,
}
