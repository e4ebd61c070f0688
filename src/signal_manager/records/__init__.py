"""What the service keeps about clients and rooms, and how it stays true."""
