"""Example generators that other people might have made: trained with torch, packed as graphs."""
