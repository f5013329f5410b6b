/**
 * Image Gate in the ComfyUI front end: what ComfyUI calls, and when.
 *
 *   news.js          what the websocket says, and the rest that is asked for
 *   outputs.js       only `mask` and the first `routes` outputs are shown, each under its label
 *   gates.js         what waits for a person, said once in a toast
 *   marks.js         the nodes where it waits are marked
 *   panel_widget.js  and show the panel
 *   places.js        which nodes those are, and the way there
 *   title.js         the page's title says how many wait
 *
 * Works on the canvas (front end 1.27 and later) and on Vue nodes ("Nodes 2.0").
 */
/**
 * @import { Node } from "../../scripts/app.js"
 * @import { Gate } from "./gates.js"
 */

import { api, app, chain, isGateClass, isGateNode } from "./comfy.js";
import { again, ended, onChange, published, restore, waiting } from "./gates.js";
import { markNodes, markVueNodes } from "./marks.js";
import { follow } from "./news.js";
import { onDoubleClick, setUpNode } from "./outputs.js";
import { followTheme, openPanel, openPanelOf, releaseFocus, showPanels } from "./panel_widget.js";
import { goToNode, isParked } from "./places.js";
import { countInTitle } from "./title.js";
import { onToastClick } from "./toasts.js";

/** @param {Node} node */
const menuItem = (node) => ({ content: "Open panel", callback: () => void openPanelOf(node) });

function showGates() {
  markNodes(waiting.values());
  showPanels();
  countInTitle(waiting.size);
}

/** Where no open workflow has the node, the gate is shown in the panel. */
/** @type {(gate: Gate) => Promise<unknown>} */
const goTo = async (gate) => (await goToNode(gate)) || openPanel(gate);

/** There is news of a gate; this is how it is by now. @param {Gate} gate */
function heard(gate) {
  if (gate.state === "waiting" || isParked(gate)) {
    if (gate.version > 1) again(gate);
    else published(gate);
  } else {
    ended(gate);
    releaseFocus();
  }
}

app.registerExtension({
  name: "ImageGate",

  commands: [
    { id: "ImageGate.OpenPanel", label: "Image Gate: open the panel", function: () => void openPanel() },
    {
      id: "ImageGate.ShowWaiting",
      label: "Image Gate: show the image that waits",
      function: () => {
        for (const gate of waiting.values()) return void goTo(gate);
      },
    },
  ],

  beforeRegisterNodeDef(nodeType, nodeData) {
    // Front ends without the menu hook below (before 1.29) ask the node itself.
    const hooked = "collectNodeMenuItems" in app;
    if (!isGateClass(nodeData.name) || hooked) return;
    chain(nodeType.prototype, "getExtraMenuOptions", function (_, options) {
      options.unshift(menuItem(this));
    });
  },

  getNodeMenuItems: (node) => (isGateNode(node) ? [menuItem(node)] : []),

  nodeCreated(node) {
    if (isGateNode(node)) setUpNode(node);
  },

  // Loading, undo and switching workflows make new node objects.
  afterConfigureGraph: showGates,

  async setup() {
    onChange(showGates, goTo);
    followTheme();
    follow(heard);
    api.addEventListener("reconnected", restore);
    app.canvas.canvas.addEventListener("litegraph:set-graph", markVueNodes);
    document.addEventListener("dblclick", onDoubleClick);
    document.addEventListener("click", onToastClick);
    await restore();
  },
});
