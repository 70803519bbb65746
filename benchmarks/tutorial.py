"""The typical training loop of tutorials, to compare this project's training with.

    python -m benchmarks.tutorial ROOT EPOCHS      (ROOT: that of torchvision's MNIST)

784-96-256-10, tanh, sigmoid, dropout 0.2, Adam, batches of 32 from a DataLoader that converts each image. Prints the
seconds of each epoch.
"""

import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def main() -> None:
    root, epochs = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    train = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
    loader = DataLoader(train, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 96),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(96, 256),
        nn.Sigmoid(),
        nn.Dropout(0.2),
        nn.Linear(256, 10),
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        started = time.perf_counter()
        model.train()
        correct, total = 0, 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            correct += (outputs.argmax(1) == labels).sum().item()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
