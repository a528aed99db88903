"""Word vectors from a taxonomy written by hand: for class names of CIFAR, and words beside them.

They are no vectors learned from text: each step of a word's path, and the word itself, has a random direction of its
own, and the vector is the sum of them. So two words are near each other as far as their paths agree, as in WordNet, and
that is all they know.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH, OWN = 64, 0.7
"""Numbers of a vector; weight of what is the word's own, beside 1 for each step of its path."""

TAXONOMY = """
animal/mammal/water: beaver dolphin otter seal whale walrus manatee porpoise orca platypus
animal/mammal/carnivore/feline: leopard lion tiger cat cheetah jaguar lynx panther cougar
animal/mammal/carnivore/canine: wolf fox dog coyote jackal hyena dingo
animal/mammal/carnivore: bear raccoon skunk badger panda weasel mongoose
animal/mammal/hoofed: camel cattle elephant deer horse giraffe zebra goat sheep bison moose antelope
animal/mammal/primate: chimpanzee gorilla baboon lemur orangutan gibbon
animal/mammal/marsupial: kangaroo possum koala wombat wallaby
animal/mammal/small: hamster mouse shrew squirrel porcupine rabbit rat chipmunk gerbil hedgehog marmot hare
animal/human: baby boy girl man woman toddler teenager crowd athlete
animal/fish: aquarium_fish flatfish ray shark trout salmon eel cod tuna carp
animal/reptile: crocodile dinosaur lizard snake turtle gecko iguana alligator chameleon
animal/amphibian: frog toad newt salamander
animal/bird: bird eagle owl penguin parrot duck heron sparrow ostrich
animal/invertebrate/insect: bee beetle butterfly caterpillar cockroach ant dragonfly moth wasp grasshopper ladybird
animal/invertebrate: crab lobster snail spider worm shrimp octopus jellyfish scorpion slug starfish
plant/tree: maple_tree oak_tree palm_tree pine_tree willow_tree birch cypress beech poplar chestnut
plant/flower: orchid poppy rose sunflower tulip daisy lily violet iris carnation dandelion
plant/fruit: apple orange pear sweet_pepper banana cherry melon lemon plum cucumber tomato
plant: mushroom moss fern cactus seaweed grass
thing/vehicle/road: bicycle bus motorcycle pickup_truck streetcar train automobile truck van scooter ambulance
thing/vehicle/work: tractor tank lawn_mower bulldozer crane excavator
thing/vehicle/air: rocket airplane helicopter balloon glider drone
thing/vehicle/water: ship canoe ferry sailboat submarine
thing/furniture: bed chair couch table wardrobe bench desk stool bookcase cradle
thing/container: bottle bowl can cup plate jar bucket basket vase jug
thing/device: clock keyboard lamp telephone television camera computer printer radio oven
thing/tool: hammer saw wrench shovel scissors needle
thing/clothing: shirt shoe hat glove scarf belt
thing/instrument: guitar violin drum piano trumpet
thing/food: bread soup cheese pizza cake noodles
place/built: bridge castle house road skyscraper tower church barn stadium lighthouse
place/nature: cloud forest mountain plain sea desert beach volcano river glacier waterfall
mark: letter numeral stripe circle signature
"""


def words() -> dict[str, tuple[str, ...]]:
    """Every word with the steps of its path, each with those above it."""
    found = {}
    for line in TAXONOMY.strip().splitlines():
        path, names = line.split(": ")
        steps = path.split("/")
        for name in names.split():
            found[name] = tuple("/".join(steps[: i + 1]) for i in range(len(steps)))
    return found


def vectors(seed: int = 0) -> dict[str, Tensor]:
    """A vector (64,) of unit length for every word."""
    generator = torch.Generator().manual_seed(seed)

    def direction() -> Tensor:
        return torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)

    steps: dict[str, Tensor] = {}
    found = {}
    for word, path in words().items():
        whole = OWN * direction()
        for step in path:
            whole = whole + steps.setdefault(step, direction())
        found[word] = torch.nn.functional.normalize(whole, dim=0)
    return found
