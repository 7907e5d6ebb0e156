//! The tree of a page: nodes in one vector that point to each other by number, filled by html5ever's tree builder.

use html5ever::interface::tree_builder::{
    ElemName, ElementFlags, NodeOrText, QuirksMode, TreeSink,
};
use html5ever::tendril::StrTendril;
use html5ever::{Attribute, LocalName, Namespace, QualName, local_name, ns};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};

/// Number of a node.
pub type NodeId = u32;
/// The document itself.
pub const DOCUMENT: NodeId = 0;
const NONE: NodeId = NodeId::MAX;

/// What a node is.
#[derive(Debug)]
pub enum Content {
    Document,
    Element(Element),
    Text(String),
    Other,
}

/// An element: its name and those of its attributes that are read.
#[derive(Clone, Debug)]
pub struct Element {
    pub name: LocalName,
    pub namespace: Namespace,
    pub attributes: Box<[Attribute]>,
}

impl Element {
    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| &*attribute.name.local == name)
            .map(|attribute| &*attribute.value)
    }

    /// The name of an HTML element, "" for those of MathML and SVG.
    pub fn html(&self) -> &str {
        if self.namespace == ns!(html) {
            &self.name
        } else {
            ""
        }
    }
}

#[derive(Debug)]
struct Node {
    content: Content,
    depth: u32,
    parent: NodeId,
    previous: NodeId,
    next: NodeId,
    first: NodeId,
    last: NodeId,
}

/// A tree that can be read.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.add(Content::Document);
        tree
    }

    fn add(&mut self, content: Content) -> NodeId {
        let node = Node {
            content,
            depth: 0,
            parent: NONE,
            previous: NONE,
            next: NONE,
            first: NONE,
            last: NONE,
        };
        self.nodes.push(node);
        (self.nodes.len() - 1) as NodeId
    }

    fn node(&self, id: NodeId) -> &Node {
        #[cfg(test)]
        super::tests::work(1);
        &self.nodes[id as usize]
    }

    fn at(&mut self, id: NodeId) -> &mut Node {
        #[cfg(test)]
        super::tests::work(1);
        &mut self.nodes[id as usize]
    }

    pub fn content(&self, id: NodeId) -> &Content {
        &self.node(id).content
    }

    pub fn element(&self, id: NodeId) -> Option<&Element> {
        match self.content(id) {
            Content::Element(element) => Some(element),
            _ => None,
        }
    }

    /// The children of a node, in order.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut at = self.node(id).first;
        std::iter::from_fn(move || {
            let here = (at != NONE).then_some(at)?;
            at = self.node(here).next;
            Some(here)
        })
    }

    /// The node and all below it, in document order. Stops where it began: nothing outside is visited.
    pub fn descendants(&self, top: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut at = top;
        std::iter::from_fn(move || {
            let here = (at != NONE).then_some(at)?;
            at = self.after(here, top);
            Some(here)
        })
    }

    fn after(&self, mut id: NodeId, top: NodeId) -> NodeId {
        if self.node(id).first != NONE {
            return self.node(id).first;
        }
        while id != top {
            if self.node(id).next != NONE {
                return self.node(id).next;
            }
            id = self.node(id).parent;
        }
        NONE
    }

    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        let parent = self.node(id).parent;
        (parent != NONE).then_some(parent)
    }

    fn detach(&mut self, id: NodeId) {
        let (parent, previous, next) = {
            let node = self.node(id);
            (node.parent, node.previous, node.next)
        };
        if previous != NONE {
            self.at(previous).next = next;
        } else if parent != NONE {
            self.at(parent).first = next;
        }
        if next != NONE {
            self.at(next).previous = previous;
        } else if parent != NONE {
            self.at(parent).last = previous;
        }
        let node = self.at(id);
        (node.parent, node.previous, node.next) = (NONE, NONE, NONE);
    }

    /// Puts `id` under `parent` before its child `next` (NONE: as the last one).
    fn insert(&mut self, id: NodeId, parent: NodeId, next: NodeId) {
        self.detach(id);
        let previous = if next == NONE {
            self.node(parent).last
        } else {
            self.node(next).previous
        };
        let depth = self.node(parent).depth + 1;
        let node = self.at(id);
        (node.parent, node.previous, node.next, node.depth) = (parent, previous, next, depth);
        if previous == NONE {
            self.at(parent).first = id;
        } else {
            self.at(previous).next = id;
        }
        if next == NONE {
            self.at(parent).last = id;
        } else {
            self.at(next).previous = id;
        }
    }

    fn insert_text(&mut self, text: &str, parent: NodeId, next: NodeId) {
        let previous = if next == NONE {
            self.node(parent).last
        } else {
            self.node(next).previous
        };
        if let Some(Content::Text(before)) = self
            .nodes
            .get_mut(previous as usize)
            .map(|node| &mut node.content)
        {
            before.push_str(text);
            return;
        }
        let id = self.add(Content::Text(text.to_owned()));
        self.insert(id, parent, next);
    }
}

/// Takes the tree builder's orders.
pub struct Sink {
    tree: RefCell<Tree>,
    last_depth: Cell<u32>,
}

impl Sink {
    pub fn new() -> Self {
        Self {
            tree: RefCell::new(Tree::new()),
            last_depth: Cell::new(0),
        }
    }

    /// Depth of the element that was placed last.
    pub fn last_depth(&self) -> u32 {
        self.last_depth.get()
    }

    pub fn nodes(&self) -> usize {
        self.tree.borrow().nodes.len()
    }

    fn place(&self, child: NodeOrText<NodeId>, parent: NodeId, next: NodeId) {
        let mut tree = self.tree.borrow_mut();
        match child {
            NodeOrText::AppendText(text) => tree.insert_text(&text, parent, next),
            NodeOrText::AppendNode(id) => {
                tree.insert(id, parent, next);
                self.last_depth.set(tree.node(id).depth);
            }
        }
    }
}

/// An element's name, as the tree builder asks for it.
#[derive(Debug)]
pub struct Name(Namespace, LocalName);

impl ElemName for Name {
    fn ns(&self) -> &Namespace {
        &self.0
    }

    fn local_name(&self) -> &LocalName {
        &self.1
    }
}

impl TreeSink for Sink {
    type Handle = NodeId;
    type Output = Tree;
    type ElemName<'a> = Name;

    fn finish(self) -> Tree {
        self.tree.into_inner()
    }

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> NodeId {
        DOCUMENT
    }

    fn elem_name(&self, target: &NodeId) -> Name {
        match self.tree.borrow().content(*target) {
            Content::Element(element) => Name(element.namespace.clone(), element.name.clone()),
            _ => Name(ns!(), local_name!("")),
        }
    }

    fn create_element(
        &self,
        name: QualName,
        attributes: Vec<Attribute>,
        _: ElementFlags,
    ) -> NodeId {
        self.tree.borrow_mut().add(Content::Element(Element {
            name: name.local,
            namespace: name.ns,
            attributes: attributes.into_boxed_slice(),
        }))
    }

    fn create_comment(&self, _: StrTendril) -> NodeId {
        self.tree.borrow_mut().add(Content::Other)
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> NodeId {
        self.tree.borrow_mut().add(Content::Other)
    }

    fn append(&self, parent: &NodeId, child: NodeOrText<NodeId>) {
        self.place(child, *parent, NONE);
    }

    fn append_based_on_parent_node(
        &self,
        element: &NodeId,
        previous: &NodeId,
        child: NodeOrText<NodeId>,
    ) {
        let parent = self.tree.borrow().node(*element).parent;
        match parent {
            NONE => self.place(child, *previous, NONE),
            parent => self.place(child, parent, *element),
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    /// The contents of a template are its children: the layout skips them, but for those of a shadow root.
    fn get_template_contents(&self, target: &NodeId) -> NodeId {
        *target
    }

    fn same_node(&self, one: &NodeId, other: &NodeId) -> bool {
        one == other
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &NodeId, child: NodeOrText<NodeId>) {
        let parent = self.tree.borrow().node(*sibling).parent;
        if parent != NONE {
            self.place(child, parent, *sibling);
        }
    }

    fn add_attrs_if_missing(&self, _: &NodeId, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, target: &NodeId) {
        self.tree.borrow_mut().detach(*target);
    }

    fn reparent_children(&self, node: &NodeId, new_parent: &NodeId) {
        let mut tree = self.tree.borrow_mut();
        while tree.node(*node).first != NONE {
            let child = tree.node(*node).first;
            tree.insert(child, *new_parent, NONE);
        }
    }

    fn allow_declarative_shadow_roots(&self, _: &NodeId) -> bool {
        false
    }
}
