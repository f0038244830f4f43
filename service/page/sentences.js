// What each kind of layer is called, what it does, and why: one or two sentences.

const NAMES = {
  input: "Picture", convolution: "Convolution", relu: "ReLU", relu6: "ReLU6", max_pool: "Max pooling", average_pool: "Average pooling",
  global_average_pool: "Global average", flatten: "Flatten", fully_connected: "Fully connected", add: "Addition", subtract: "Shift",
  multiply: "Scaling", concatenate: "Concatenation", softmax: "Softmax",
};

export const kindName = (kind) => NAMES[kind] ?? kind.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

// Whether a value of the layer is made of the whole picture; of others without a receptive field that is not known.
export const seesAll = ({ kind }) => kind === "fully_connected" || kind === "global_average_pool";

export const shapeText = (shape) => shape.join(" \u00d7 ");

// What padding says: [top, left, bottom, right].
export function paddingText([top, left, bottom, right]) {
  if (top === left && left === bottom && bottom === right) return `padding ${top}`;
  return `padding ${top} above, ${left} left, ${bottom} below, ${right} right`;
}

// `layers` are those of the network, of which the last gives the logits.
export function sentenceFor(layer, layers) {
  const normalises = layer.inputs?.[0] === "input" || layers.find(({ name }) => name === layer.inputs?.[0])?.inputs?.[0] === "input";
  const by = layer.kernel ? `${layer.kernel[0]} \u00d7 ${layer.kernel[1]}` : "";
  switch (layer.kind) {
    case "input":
      return "The pixels as they enter the network, after cropping and scaling.";
    case "convolution":
      return convolution(layer, by);
    case "relu":
      return "Keeps what is above zero and sets the rest to zero. Without such a bend, all layers together could do no more than one.";
    case "relu6":
      return "Keeps what is between zero and six. The upper bound lets phones compute it with small numbers.";
    case "max_pool":
      return `Keeps the largest value of each ${by} window: what was found matters more than exactly where, and the maps get smaller.`;
    case "average_pool":
      return `Takes the mean of each ${by} window, so that the maps get smaller and smoother.`;
    case "global_average_pool":
      return "Takes the mean of each whole map: how much of a feature there is, wherever it is. It is what makes class activation maps exact.";
    case "flatten":
      return "Lays all maps out in one long row, so that the next layer may weigh every pixel.";
    case "fully_connected":
      return layer === layers.at(-1)
        ? "Gives each class a score, its logit: every input times a weight of that class, added up. Softmax makes probabilities of them."
        : "Every output is a weighted sum of all inputs: here the features are combined, and places no longer matter.";
    case "add":
      return "Adds what came before the last layers to what they made of it. Such a short cut lets deep networks learn small corrections.";
    case "multiply":
    case "subtract":
      return normalises
        ? "Normalisation: scaling and shift together move 0 to 255 onto numbers around zero, as in training."
        : "Computes each value from the two that meet there.";
    case "concatenate":
      return "Puts the maps of several layers one behind the other.";
    case "softmax":
      return "Raises e to the power of every logit and divides by the sum: now they are all positive and add up to 1.";
    default:
      return "An operation of the network that this page has no words for; its maps show what it does.";
  }
}

function convolution({ groups, kernel, stride, shape }, by) {
  const smaller = Math.max(...stride) > 1 ? ` It looks at every ${stride[0] === 2 ? "second" : `${stride[0]}th`} place only, which makes the maps smaller.` : "";
  if (groups > 1 && groups === shape[0]) return `Slides one small ${by} table over each map by itself: cheap, and enough to find edges and spots in it.${smaller}`;
  if (kernel[0] === 1 && kernel[1] === 1) return `Mixes the maps at every place, each by a weight of its own, and looks at no neighbours.${smaller}`;
  return `Slides ${shape[0]} learned tables of ${by} over all maps before it; each is high where its pattern is found.${smaller}`;
}
