import type { ComfyApp, ComfyExtension } from "@comfyorg/comfyui-frontend-types";

/** ComfyUI's page serves it at this path. */
export const app: ComfyApp;

type LGraphNode = Parameters<NonNullable<ComfyExtension["nodeCreated"]>>[0];
export type Graph = ComfyApp["rootGraph"];
/** A node; one with a subgraph has other nodes in it. */
export type Node = LGraphNode & { subgraph?: Graph };
/** What ComfyUI gives all nodes. */
export type WidgetHost = Node & {
  addDOMWidget(name: string, type: string, element: HTMLElement, options: object): Widget;
};
export type Workflow = Exclude<NonNullable<Parameters<ComfyApp["loadGraphData"]>[3]>, string>;
export type Slot = LGraphNode["outputs"][number];
export type Widget = NonNullable<LGraphNode["widgets"]>[number];

declare global {
  const LiteGraph: { NODE_TITLE_HEIGHT: number; NODE_SLOT_HEIGHT: number };
}
